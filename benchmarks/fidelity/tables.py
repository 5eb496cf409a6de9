"""The measurements as Markdown and as claims."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from benchmarks.common.record import Claim, interval, markdown, plain
from benchmarks.fidelity.curves import Areas
from benchmarks.fidelity.field import Contender
from benchmarks.fidelity.learning import Relation, values
from benchmarks.fidelity.measure import Curves, Exact, Judged
from benchmarks.fidelity.training import LAMBDAS, Learned
from benchmarks.papers.runs import COMPLETED

CURVES = (
    "method",
    "area between the curves",
    "share of the score's change",
    "insertion area",
    "deletion area",
    "coalitions",
    "forwarded tokens",
)
TRUTH = ("method", "correlation", "rank correlation", "error", "correlation as paid")
COSTS = ("coalitions", "forwarded tokens")


def curve_claims(curves: Curves) -> list[Claim]:
    """Return every method's areas; those of insertion and deletion are differences to random orders."""
    found = []
    for name, ranked in curves.ranked.items():
        insertion, deletion, between = _parts(ranked.areas, curves.random)
        found.append(Claim.of(f"fidelity.area_between.{name}", between))
        found.append(Claim.of(f"fidelity.insertion_area.{name}", insertion))
        found.append(Claim.of(f"fidelity.deletion_area.{name}", deletion))
    return found


def _parts(areas: Areas, random: Areas) -> tuple[list[float], list[float], list[float]]:
    insertion, deletion = areas.insertion - random.insertion, areas.deletion - random.deletion
    return insertion.tolist(), deletion.tolist(), areas.between.tolist()


def curves_text(curves: Curves, tokens: int) -> str:
    """Return the table of areas, the best first."""
    gap = float(curves.gaps.abs().mean())
    rows = []
    for name in sorted(curves.ranked, key=lambda name: -float(curves.ranked[name].areas.between.mean())):
        ranked = curves.ranked[name]
        insertion, deletion, between = (Claim.of("", part) for part in _parts(ranked.areas, curves.random))
        rows.append(
            (
                name,
                interval(between),
                f"{between.value / gap:+.2f}",
                interval(insertion),
                interval(deletion),
                *_costs(ranked.found.coalitions, ranked.found.forwarded_tokens),
            )
        )
    return _section(
        "Deletion and insertion on the sentiment reward model",
        f"{len(curves.gaps)} responses of {tokens} tokens, sampled by the untrained policy after held-out prompts; "
        "means with 95 % intervals (Student's t), in units of the score, which has a standard deviation of 1 there. "
        "Area between the curves: insertion less deletion, higher is better, 0 is a random order. Insertion (higher is "
        "better) and deletion area (lower is better) are differences to random orders of the same responses. The share "
        f"is the area between over the mean |v(all) - v(none)|, {gap:.3f}. Coalitions and tokens are those that the "
        "credit of one response takes.",
        markdown(CURVES, rows),
    )


def truth_claims(label: str, judged: Mapping[str, Judged]) -> list[Claim]:
    """Return every method's agreement with a truth."""
    found = []
    for name, each in judged.items():
        found.append(Claim.of(f"fidelity.{label}.correlation.{name}", each.attributed.correlation.tolist()))
        found.append(Claim.of(f"fidelity.{label}.rank_correlation.{name}", each.attributed.rank_correlation.tolist()))
        found.append(Claim.of(f"fidelity.{label}.error.{name}", each.attributed.error.tolist()))
    return found


def exact_text(judged: Mapping[str, Judged], exact: Exact) -> str:
    """Return the table of agreement with exact Shapley values, and what those cost."""
    count, tokens = exact.values.shape
    whole = ("all coalitions", "1", "1", "0", "-", *_costs(exact.coalitions, exact.forwarded_tokens))
    return _section(
        "Agreement with exact Shapley values",
        f"{count} responses of {tokens} tokens on the sentiment reward model, each token a player; means with 95 % "
        "intervals. A span's value counts evenly for its tokens; as paid, all of it stands on its last one, with what "
        "closure adds. Credit that is equal everywhere has correlation 0. Error: |credit - truth| / |truth|.",
        markdown((*TRUTH, *COSTS), [*_truth_rows(judged), whole]),
    )


def world_text(about: str, judged: Mapping[str, Judged], tokens: int, explained: float | None = None) -> str:
    """Return the table of agreement with a known truth.

    Args:
        about: The world in words.
        judged: Every method.
        tokens: Of a response.
        explained: Share of the truth's variance that the reward model explains, where it is not the truth itself.
    """
    flipped = all(each.placed is not None for each in judged.values())
    count = len(next(iter(judged.values())).attributed.error)
    note = (
        " The truth is the Shapley value of the game in which tokens are deleted, in closed form; the last column "
        "holds credit against what each token adds where it stands, all of a flip counted for the flipped token."
    )
    rows = [
        (*row, *(_mean(placed.correlation) for placed in [judged[row[0]].placed] if placed is not None))
        for row in _truth_rows(judged)
    ]
    taught = f" The network explains {explained:.2f} of the true scores' variance." if explained is not None else ""
    return _section(
        f"Known truth: {about}",
        f"{count} responses of {tokens} tokens.{note if flipped else ''}{taught}",
        markdown((*TRUTH, *COSTS, *(["correlation with what stands there"] if flipped else [])), rows),
    )


def _truth_rows(judged: Mapping[str, Judged]) -> list[tuple[str, ...]]:
    rows = []
    for name in sorted(judged, key=lambda name: -float(judged[name].attributed.correlation.mean())):
        each = judged[name]
        parts = (each.attributed.correlation, each.attributed.rank_correlation, each.attributed.error)
        costs = _costs(each.found.coalitions, each.found.forwarded_tokens)
        rows.append((name, *map(_mean, parts), _mean(each.paid.correlation), *costs))
    return rows


def learned_text(about: str, judged: Mapping[str, Judged], learned: Learned, relations: Iterable[Relation]) -> str:
    """Return what was learned in a world beside what each method knows of it."""
    methods = [name for name in judged if (name, LAMBDAS[0]) in learned]
    settings = [(measure, each) for measure in ("final J", "mean J along the curve") for each in LAMBDAS]
    rows = []
    for name in sorted(methods, key=lambda name: -float(judged[name].attributed.correlation.mean())):
        cells = [
            _mean_and_error(values({name: learned[name, each]}, measure)[name]) if (name, each) in learned else "-"
            for measure, each in settings
        ]
        every = [run for each in LAMBDAS for run in learned.get((name, each), [])]
        known = (judged[name].attributed.correlation, judged[name].paid.correlation)
        lost = sum(run.state != COMPLETED for run in every)
        rows.append((name, *(f"{part.mean():.2f}" for part in known), *cells, str(lost)))
    seeds = sorted({run.seed for runs in learned.values() for run in runs})
    columns = ("method", "correlation", "as paid", *(f"{measure}, lambda {each:g}" for measure, each in settings))
    return _section(
        f"Learning where {about}",
        f"PPO with the quickstart's settings, seeds {seeds[0]} to {seeds[-1]}; means ± one standard error. "
        f"{_caution(len(methods))}",
        markdown((*columns, "lost"), rows),
        _relations(relations),
    )


def sentiment_text(
    field: Sequence[Contender],
    measures: Mapping[str, Mapping[str, float]],
    learned: Mapping[str, Mapping[str, Sequence[float]]],
    relations: Iterable[Relation],
) -> str:
    """Return fidelity on the sentiment reward model beside what the papers' comparison learned there."""
    entrants = {each.method: each for each in field}
    first = next(iter(learned.values()))
    rows = []
    for name in sorted(first, key=lambda name: -float(np.mean(first[name]))):
        each = entrants[name]
        shown = each.entrant if each.balance == 1 else f"{each.entrant} ({each.balance:g} of the reward)"
        known = (f"{found[name]:.2f}" for found in measures.values())
        rows.append((name, shown, *known, *(_mean_and_error(found[name]) for found in learned.values())))
    return _section(
        "Learning from the sentiment reward model",
        "First the fresh seeds of the papers' comparison, each entrant at the lambda and the critic that it was tuned "
        "to: most critics know the reward model by themselves. Then its tuning seeds with critics that start from "
        f"nothing, means over all lambdas. Means ± one standard error. {_caution(len(rows))}",
        markdown(("method", "entrant", *measures, *learned), rows),
        _relations(relations),
    )


def _caution(methods: int) -> str:
    return (
        f"The rank correlations below are over {methods} methods. That is few, and methods are relatives, not a sample "
        "of anything: the intervals (methods drawn again, and the seeds of each) describe, they do not test."
    )


def relation_claims(label: str, relations: Iterable[Relation]) -> list[Claim]:
    """Return the rank correlations; what could not be computed is no claim."""
    return [
        Claim(f"fidelity.{label}.{plain(each.fidelity)}.{plain(each.learning)}", *_numbers(each), each.methods)
        for each in relations
        if not math.isnan(each.value)
    ]


def headline(relation: Relation) -> list[Claim]:
    """Return the one number: does the correlation with known effects predict the area under the learning curve?"""
    if math.isnan(relation.value):
        return []
    return [Claim("fidelity.predicts_learning_spearman", *_numbers(relation), relation.methods)]


def _numbers(relation: Relation) -> tuple[float, float, float]:
    return relation.value, relation.low, relation.high


def _relations(relations: Iterable[Relation]) -> str:
    rows = [
        (each.fidelity, each.learning, f"{each.value:+.2f} [{each.low:+.2f}, {each.high:+.2f}]", str(each.methods))
        for each in relations
    ]
    return markdown(("fidelity", "learning", "Spearman's correlation", "methods"), rows)


def _section(title: str, about: str, *tables: str) -> str:
    return "\n\n".join((f"### {title}", about, *tables))


def _mean(found: np.ndarray) -> str:
    return interval(Claim.of("", found.tolist()), ".2f")


def _mean_and_error(found: Sequence[float]) -> str:
    if not found:
        return "-"
    error = np.std(found, ddof=1) / len(found) ** 0.5 if len(found) > 1 else math.nan
    return f"{np.mean(found):.3f}" if math.isnan(error) else f"{np.mean(found):.3f} ± {error:.3f}"


def _costs(coalitions: float, tokens: float) -> tuple[str, str]:
    return f"{coalitions:,.0f}", f"{tokens:,.0f}"
