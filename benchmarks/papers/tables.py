"""The comparison as Markdown and as claims."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from benchmarks.common.record import Claim, markdown, plain
from benchmarks.papers.comparison import Comparison, mean_objective
from benchmarks.papers.field import (
    DOUBLED,
    HEAD_ONLY,
    RANDOM,
    REWARD_MODEL,
    SCAR,
    SCAR_DOUBLED,
    TUNED,
    UNIFORM,
    WINNER,
)
from benchmarks.papers.measures import (
    before_training,
    completed,
    corrected_p_values,
    gain,
    gain_at_matched_kl,
    gain_by_training,
    median,
    steps_ratio,
)
from benchmarks.papers.runs import COMPLETED
from benchmarks.papers.settings import SETTINGS
from pipeline.study.verdict import Difference, named

SOURCE = ("commit", "machine")
# Behind the lambda of whoever's critic starts as the reward model.
KNOWS = ", RM critic"
RESULTS = ("", "lambda", "J", "J over tuned sparse", "p", "reward", "gold", "KL, nats", "reward at matched KL", "steps")
COSTS = ("", "settings tried", "shape", "wall s", "training CPU s", "coalitions", "credit tokens", "sums kept", "lost")


def claims(comparison: Comparison) -> list[Claim]:
    """Return what the project is held to, and every method's gain over tuned sparse PPO."""
    task, runs = f"papers.{comparison.label.replace('-', '_')}", comparison.runs
    ratio = steps_ratio(runs[WINNER], runs[TUNED])
    matched = gain_at_matched_kl(runs[WINNER], runs[TUNED])
    found = [
        Claim(f"{task}.steps_ratio_vs_tuned_sparse", ratio.value, ratio.low, ratio.high, ratio.seeds),
        Claim(f"{task}.gain_at_matched_kl_low", matched.low, matched.low, matched.low, matched.seeds),
        _claim(f"{task}.gain_at_matched_kl", matched),
    ]
    if HEAD_ONLY in runs:
        usual = steps_ratio(runs[WINNER], runs[HEAD_ONLY])
        found += [
            Claim(f"{task}.steps_ratio_vs_sparse_value_head", usual.value, usual.low, usual.high, usual.seeds),
            _claim(
                f"{task}.gain_at_matched_kl_vs_sparse_value_head", gain_at_matched_kl(runs[WINNER], runs[HEAD_ONLY])
            ),
        ]
    for name in comparison.runs:
        if name != TUNED and len(completed(runs[name])) > 1:
            found.append(_claim(f"{task}.gain_over_tuned_sparse.{plain(name)}", gain(runs[name], runs[TUNED])))
    found += [_claim(f"{task}.gain_by_training.{plain(name)}", each) for name, each in _learned(comparison).items()]
    return found


def _claim(name: str, found: Difference) -> Claim:
    return Claim(name, found.mean, found.low, found.high, found.seeds)


def results_table(comparison: Comparison) -> str:
    """Return medians over fresh seeds, paired differences with 95 % intervals, and corrected p-values."""
    rival = comparison.runs[TUNED]
    p_values = corrected_p_values(comparison.runs, TUNED)
    rows = []
    for name in _order(comparison):
        runs = comparison.runs[name]
        is_rival, enough = name == TUNED, bool(completed(runs))
        ratio = steps_ratio(runs, rival) if enough else None
        rows.append(
            (
                name,
                _setting(comparison, name),
                number(median(runs, "objective")),
                "" if is_rival else interval_words(gain(runs, rival)) if enough else "-",
                "" if is_rival else _p(p_values[name]),
                number(median(runs, "reward")),
                number(median(runs, "gold_reward")),
                number(median(runs, "kl_nats"), 1),
                "" if is_rival else interval_words(gain_at_matched_kl(runs, rival)) if enough else "-",
                "-" if ratio is None or ratio.steps is None else str(ratio.steps),
            )
        )
    return markdown(RESULTS, rows)


def costs_table(comparison: Comparison) -> str:
    """Return what every method's runs took, and what shape each was."""
    rows = []
    for name in _order(comparison):
        runs, candidate = comparison.runs[name], comparison.chosen[name]
        done = completed(runs).values()
        lost = [run.state for run in runs if run.state != COMPLETED]
        rows.append(
            (
                name,
                comparison.tried[name],
                _described(comparison, name),
                number(median(runs, "wall_seconds"), 1),
                number(median(runs, "training_cpu_seconds"), 1),
                number(median(runs, "credit_coalitions"), 0),
                number(median(runs, "credit_tokens"), 0),
                "yes" if candidate.reward_scale == 1 and all(run.largest_error < 1e-4 for run in done) else "no: 2R",
                f"{len(lost)} ({', '.join(sorted(set(lost)))})" if lost else "0",
            )
        )
    return markdown(COSTS, rows)


def lambda_table(comparison: Comparison) -> str:
    """Return mean J over the tuning seeds for every lambda that was tried; of sparse PPO, for each critic."""
    groups = sorted({(name, critic) for name, _, critic in comparison.tuning})
    lambdas = sorted({value for _, value, _ in comparison.tuning})
    rows = []
    for name, critic in groups:
        found = [mean_objective(comparison.tuning[name, value, critic]) for value in lambdas]
        whose = f"{name}, critic from the reward model" if critic == REWARD_MODEL else name
        rows.append((whose, *map(tuned_height, found)))
    return markdown(("lambda", *(f"{value:g}" for value in lambdas)), rows)


def contrasts_table(comparison: Comparison) -> str:
    """Return the paired differences that answer the papers' questions."""
    best, rows = comparison.best_alone(), []
    for question, ours, theirs in (
        ("total of 2R, all on the last token", DOUBLED, TUNED),
        ("spans' Shapley values at equal scale", SCAR, TUNED),
        ("and as in the public code, at 2R", SCAR_DOUBLED, SCAR),
        ("a critic that knows the reward model", TUNED, HEAD_ONLY),
        ("spread, without information", UNIFORM, TUNED),
        ("spread at random", RANDOM, UNIFORM),
        ("information beyond spreading", WINNER, UNIFORM),
        (f"the mix over its best part, {best}", WINNER, best),
        ("the best part over tuned sparse", best, TUNED),
        ("and over sparse with a value head", best, HEAD_ONLY),
    ):
        a, b = comparison.runs.get(ours, []), comparison.runs.get(theirs, [])
        if completed(a) and completed(b):
            rows.append((question, ours, theirs, interval_words(gain(a, b)), interval_words(gain_at_matched_kl(a, b))))
    return markdown(("question", "of", "over", "J", "reward at matched KL"), rows)


def _setting(comparison: Comparison, name: str) -> str:
    """Return an entrant's lambda, and its critic where it is the better informed one."""
    arm = comparison.chosen[name].arm
    return f"{arm.shape.gae_lambda:.2f}{KNOWS if arm.critic == REWARD_MODEL else ''}"


def _described(comparison: Comparison, name: str) -> str:
    arm = comparison.chosen[name].arm
    critic = ", critic from the reward model" if arm.critic == REWARD_MODEL else ""
    return f"{arm.shape.describe()}{critic}"


def _order(comparison: Comparison) -> Sequence[str]:
    """Return the methods, the best median J first."""

    def height(name: str) -> float:
        found = median(comparison.runs[name], "objective")
        return -math.inf if math.isnan(found) else found

    return sorted(comparison.runs, key=height, reverse=True)


def summary(comparison: Comparison) -> list[str]:
    """Return what was run, what the winner came to, and the table of results."""
    config, runs = comparison.config, comparison.runs
    seeds = sorted(run.seed for run in runs[TUNED])
    commits, machines = (sorted({getattr(run, name) for each in runs.values() for run in each}) for name in SOURCE)
    ratio, matched = steps_ratio(runs[WINNER], runs[TUNED]), gain_at_matched_kl(runs[WINNER], runs[TUNED])
    level, steps = "the final J of tuned sparse PPO", config.ppo.steps
    reached = f"reaches {level} after {ratio.steps} of" if ratio.steps else f"does not reach {level} within"
    return [
        f"{config.ppo.steps} steps of {config.ppo.batch_size} responses of up to {config.sampling.response_tokens} "
        f"tokens, KL at {config.ppo.kl_coef} a nat, seeds {seeds[0]} to {seeds[-1]}. {_tuned(comparison)}. "
        f"Commit {', '.join(commits)}; {' and '.join(machines)}.",
        f"The winner, {_described(comparison, WINNER)}, {reached} {steps} steps (ratio {ratio.value:.2f}, bootstrap "
        f"over seeds [{ratio.low:.2f}, {ratio.high:.2f}]). At matched KL its reward differs by "
        f"{interval_words(matched)}. {_before(comparison)}",
        results_table(comparison),
    ]


def _learned(comparison: Comparison) -> dict[str, Difference]:
    """Return every method's J over that of the policy that all start from."""
    price, runs = comparison.config.ppo.kl_coef, comparison.runs
    return {name: gain_by_training(runs[name], price) for name in runs if len(completed(runs[name])) > 1}


def _before(comparison: Comparison) -> str:
    level = before_training(comparison.runs[TUNED], comparison.config.ppo.kl_coef)
    return f"Before training J is {level:z.3f}: {learning_words(_learned(comparison))}"


def learning_words(found: Mapping[str, Difference]) -> str:
    """Return who ends above the policy before training, and who below it."""
    above = [name for name, each in found.items() if each.is_gain]
    below = [name for name, each in found.items() if each.is_loss]
    undecided = [name for name in found if name not in above + below]
    if not below + undecided:
        return "all end above it."
    said = []
    if len(above) < len(undecided):
        said.append(f"{named(above) + ' alone' if above else 'nobody'} can be told to end above it")
    elif undecided:
        said.append(f"{named(undecided)} cannot be told to end above it")
    if below:
        said.append(f"{named(below)} ended below it")
    return f"{'; '.join(said)}."


def text(comparison: Comparison) -> str:
    """Return one task's section."""
    lines = [
        f"### {comparison.label}",
        *summary(comparison),
        contrasts_table(comparison),
        costs_table(comparison),
    ]
    if comparison.tuning:
        lines += ["Mean J on the tuning seeds, by lambda:", lambda_table(comparison)]
    return "\n\n".join(lines)


def shown(comparison: Comparison, picture: str) -> str:
    """Return a task's section of the page of benchmarks, folded: its results and its picture, relative to the page."""
    label = comparison.label
    heading = f'<details markdown="1">\n<summary>{label.capitalize()}: results and curves of all methods</summary>'
    image = f"![{label}: J over training steps, and reward over KL]({picture})"
    return "\n\n".join((heading, *summary(comparison), image, "</details>"))


def _tuned(comparison: Comparison) -> str:
    if not comparison.tuning:
        like = SETTINGS[comparison.label].like
        chosen = f"Shapes and lambda are as they were chosen on {like} for the small policy, the winner too"
        return f"Nothing was tuned (`--tasks {comparison.label}`). {chosen}"
    tried = sorted({value for _, value, _ in comparison.tuning})
    return f"Lambda of {_listed(tried)} was tuned on seeds {_listed(comparison.config.search.seeds)}"


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def number(value: float, digits: int = 3) -> str:
    """Return a number as it stands in a table; a dash for none."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def tuned_height(objective: float) -> str:
    """Return a mean J over tuning seeds as it stands in a table; ``lost`` where one came to nothing."""
    return number(objective) if math.isfinite(objective) else "lost"


def interval_words(found: Difference) -> str:
    """Return a difference and its 95 % interval, where it has one."""
    if not math.isfinite(found.low):
        return f"{found.mean:+.3f}"
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}".removeprefix("0")
