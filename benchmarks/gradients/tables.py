"""The measurements as Markdown and as claims."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.common.record import Claim, markdown, plain
from benchmarks.fidelity.learning import Relation
from benchmarks.gradients.field import Row
from benchmarks.gradients.moments import Measured, Quality
from benchmarks.gradients.stage import Stage


def claims(label: str, groups: int, stages: Sequence[Stage]) -> list[Claim]:
    """Return cosine and alignment of every method, at every lambda and stage."""
    return [
        Claim(f"gradients.{label}.{name}_{stage.steps}.{_place(row)}", found.value, found.low, found.high, groups)
        for stage in stages
        for row, quality in stage.qualities.items()
        for name, found in (("cosine", quality.cosine), ("alignment", quality.alignment))
        if not math.isnan(found.value)
    ]


def relation_claims(label: str, relation: Relation) -> list[Claim]:
    """Return whether alignment predicts learning; nothing where nothing was learned yet."""
    if math.isnan(relation.value):
        return []
    name = f"gradients.{label}.predicts_learning_spearman"
    return [Claim(name, relation.value, relation.low, relation.high, relation.methods)]


def text(label: str, batch: int, stages: Sequence[Stage], relation: Relation) -> str:
    """Return a task's section."""
    parts = [f"### {label.capitalize()}"]
    for stage in stages:
        parts += [_about(batch, stage), _at_one(batch, stage), _over_lambdas(stage)]
    if not math.isnan(relation.value):
        parts.append(
            f"Alignment before training and the final J of the papers' comparison's tuning runs, over "
            f"{relation.methods} settings of method and lambda: Spearman's correlation "
            f"{relation.value:+.2f} [{relation.low:+.2f}, {relation.high:+.2f}] (settings drawn again, and the seeds "
            "of each; settings of one method are relatives, so the interval describes and does not test)."
        )
    return "\n\n".join(parts)


def _about(batch: int, stage: Stage) -> str:
    when = "Before training" if not stage.steps else f"After {stage.steps} steps of sparse PPO"
    return (
        f"**{when}.** {stage.responses:,} responses, {stage.wall_seconds / 60:.0f} minutes. First what lambda 1 gives, "
        "where rewards to come are summed as they are: the cosine of the expected gradient and the true one (1 is "
        "without bias), the noise of one response (trace of the covariance over the squared length of the "
        f"expectation), the cosine that a batch of {batch} has with the true gradient on average, that cosine over "
        "sparse reward's, and the batch beyond which sparse reward would be the better one. Brackets: 95 %, jackknife "
        f"over groups. Below: that cosine of a batch of {batch} at every lambda, and behind it the expectation's. "
        "Without a critic a lambda below 1 is a discount: where responses may end early it also sets a price on length."
    )


def _at_one(batch: int, stage: Stage) -> str:
    rows = sorted(
        ((row, quality) for row, quality in stage.qualities.items() if row.gae_lambda == 1),
        key=lambda pair: -_rank(pair[1].alignment),
    )
    usual = next(quality for row, quality in rows if row.is_usual)
    cells = [
        (
            row.shown,
            _interval(quality.cosine),
            _whole(quality.noise),
            _interval(quality.alignment),
            _interval(quality.advantage),
            "" if row.is_usual else better_beyond(quality, usual),
        )
        for row, quality in rows
    ]
    columns = ("lambda 1", "cosine", "noise of one response", f"batch of {batch}", "over sparse", "sparse better from")
    return markdown(columns, cells)


def better_beyond(ours: Quality, usual: Quality) -> str:
    """Return the responses of a batch from which the unbiased estimator is the better aligned one, in words.

    With noise ``N`` of one response and a cosine ``c``, a batch of ``n`` has the alignment ``c / sqrt(1 + N / n)``.
    """
    signal = ours.cosine.value * abs(ours.cosine.value)
    if math.isnan(signal) or math.isnan(usual.noise.value):
        return "-"
    gained = signal * usual.noise.value - ours.noise.value
    if gained <= 0:
        return "1"
    # What the sample cannot tell from an unbiased estimator is never overtaken, as far as it knows.
    return "never seen" if ours.cosine.high >= 1 else f"{gained / (1 - signal):,.0f}"


def _over_lambdas(stage: Stage) -> str:
    lambdas = sorted({row.gae_lambda for row in stage.qualities})
    by_name: dict[str, dict[float, Quality]] = {}
    for row, quality in stage.qualities.items():
        by_name.setdefault(row.shown, {})[row.gae_lambda] = quality
    whole = {name: found for name, found in by_name.items() if len(found) == len(lambdas)}
    order = sorted(whole, key=lambda name: -max(_rank(quality.alignment) for quality in whole[name].values()))
    cells = [
        (name, *(f"{_interval(whole[name][at].alignment)} ({_short(whole[name][at].cosine)})" for at in lambdas))
        for name in order
    ]
    return markdown(("", *(f"lambda {at:g}" for at in lambdas)), cells)


def _rank(found: Measured) -> float:
    return -math.inf if math.isnan(found.value) else found.value


def _whole(found: Measured) -> str:
    return "-" if math.isnan(found.value) else f"{found.value:,.0f}"


def _short(found: Measured) -> str:
    return "-" if math.isnan(found.value) else f"{found.value:.2f}"


def _interval(found: Measured) -> str:
    if math.isnan(found.value):
        return "-"
    # Where a group less hides an expectation, the jackknife has no interval.
    wide = "" if math.isnan(found.low) else f" [{found.low:.3f}, {found.high:.3f}]"
    return f"{found.value:.3f}{wide}"


def _place(row: Row) -> str:
    return f"{plain(row.shown)}.lambda_{row.gae_lambda:g}"
