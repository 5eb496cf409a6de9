"""Confirmation: the winner and its baselines on fresh seeds, and what their paired differences say."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, stdev
from typing import Any

import numpy as np
from scipy.stats import bootstrap
from scipy.stats import t as student_t

from pipeline.trials.arm import WINNER, Arm
from pipeline.trials.results import RunResult
from pipeline.trials.statistics import SMOOTHING_STEPS, first_step_reaching, mean_and_error, smoothed_mean_curve
from search_spaces import is_without_credit
from search_spaces.rivals import CRITIC
from shaping.method_names import SPARSE, UNIFORM
from shaping.shape import Shape

CONFIDENCE = 0.95
RESAMPLES, RESAMPLING_SEED = 10_000, 0
# Two differences have three resampled means: too few for a tail of 2.5 %.
LEAST_RESAMPLED = 3
# The policy that every run starts from: a rival that costs nothing.
UNTRAINED = "before training"
# Sparse PPO wants lambda 1, or a critic that starts as the reward model and then a small lambda as dense credit does:
# the best of them is the fair rival.
TUNED = ("sparse, lambda 1", "sparse, reward-model critic", "sparse, reward-model critic, same lambda")

# Of a study whose winner needs no credit: what the best one that has some is called, before its own name.
CREDIT = "with credit, "
# What an arm of the search that runs on fresh seeds beside the winner is called: ``place 2, NAME``.
PLACE = "place "

# Arm name to its seeds' results.
Runs = Mapping[str, Sequence[RunResult]]


@dataclass(frozen=True)
class Difference:
    """A paired difference of J, winner minus rival, over seeds that both ran; above 0 the winner is better.

    Both intervals bound the mean at 95 %. Few seeds are all there are: Student's t trusts their spread to be normal,
    the bootstrap trusts them to show the tails, and what is claimed holds under either.

    Attributes:
        rival: Name of the other arm.
        mean: Of the seeds' differences.
        low: Lower bound by Student's t over the differences.
        high: Upper bound by the same.
        seeds: Differences.
        bootstrap_low: Lower bound by the bootstrap; that of Student's t where there is no bootstrap.
        bootstrap_high: Upper bound by the same.
    """

    rival: str
    mean: float
    low: float
    high: float
    seeds: int
    bootstrap_low: float
    bootstrap_high: float

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Difference:
        """Return the difference of its plain values."""
        numbers = {name: float(value) for name, value in values.items() if name not in ("rival", "seeds")}
        return cls(rival=str(values["rival"]), seeds=int(values["seeds"]), **numbers)

    @property
    def is_gain(self) -> bool:
        """Whether both intervals lie above 0."""
        return self.low > 0 and self.bootstrap_low > 0

    @property
    def is_loss(self) -> bool:
        """Whether both intervals lie below 0."""
        return self.high < 0 and self.bootstrap_high < 0


@dataclass(frozen=True)
class Verdict:
    """What the confirmation found.

    Attributes:
        winner: Name of the search's winning arm.
        differences: Against sparse, tuned sparse and uniform, or against all rivals that the search found.
        tuned_rival: Which rival was the best one: of the tuned sparse arms, or of all that the search found.
        steps_to_level: For each arm, the first step whose smoothed mean J reaches that rival's final level.
        total_steps: Training steps of a run.
        text: The verdict in words.
    """

    winner: str
    differences: tuple[Difference, ...]
    tuned_rival: str
    steps_to_level: dict[str, int | None]
    total_steps: int
    text: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Verdict:
        """Return the verdict of ``to_dict``'s values."""
        steps = {str(arm): None if n is None else int(n) for arm, n in values["steps_to_level"].items()}
        return cls(
            winner=values["winner"],
            differences=tuple(Difference.from_dict(each) for each in values["differences"]),
            tuned_rival=values["tuned_rival"],
            steps_to_level=steps,
            total_steps=int(values["total_steps"]),
            text=tuple(map(str, values["text"])),
        )


def confirmation_arms(winner: Arm, base: Shape, reward_critic: bool = True) -> list[Arm]:
    """Return what is run on fresh seeds.

    Args:
        winner: The search's winner.
        base: The sparse shape at the study's settings.
        reward_critic: Whether a critic can start as the reward model; without it that baseline is left out.
    """
    dense = {"weights": {UNIFORM: 1.0}, "balance": 1.0, "gae_lambda": winner.shape.gae_lambda}
    arms = [
        replace(winner, name=WINNER),
        Arm(SPARSE, base),
        Arm(TUNED[0], base.with_changes(gae_lambda=1.0)),
        Arm(TUNED[1], base, {CRITIC: "reward_model"}),
        Arm(TUNED[2], base.with_changes(gae_lambda=winner.shape.gae_lambda), {CRITIC: "reward_model"}),
        Arm(UNIFORM, base.with_changes(**dense)),
    ]
    return [arm for arm in arms if reward_critic or arm.critic != "reward_model"]


def arms_beside_winner(winner: Arm, base: Shape, ranked: Sequence[Arm]) -> list[Arm]:
    """Return what is run on fresh seeds where the trainer was searched, too: the winner beside the rivals *found*.

    They are what the search ranks first of all sparse learners, and of those that spread the reward evenly. Where the
    winner needs no credit itself, the best shape with credit runs beside it.

    Args:
        winner: The search's winner.
        base: The sparse shape at the study's settings.
        ranked: The search's arms, best first, the winner among them.
    """
    others = [arm for arm in ranked if arm.name not in (winner.name, SPARSE)]
    sparse = [arm for arm in others if set(arm.shape.active_methods()) == {SPARSE}]
    spread = [arm for arm in others if arm not in sparse and is_without_credit(arm.shape)]
    found = [_named_after(family, arms[0]) for family, arms in ((SPARSE, sparse), (UNIFORM, spread)) if arms]
    credit = [arm for arm in others if not is_without_credit(arm.shape)] if is_without_credit(winner.shape) else []
    best = [replace(arm, name=f"{CREDIT}{arm.name}") for arm in credit[:1]]
    return [replace(winner, name=WINNER), Arm(SPARSE, base), *found, *best]


def _named_after(family: str, arm: Arm) -> Arm:
    return arm if arm.name.startswith(family) else replace(arm, name=f"{family}, {arm.name}")


def paired_difference(rival: str, ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Return the mean paired difference with its 95 % intervals; unbounded where there is only one pair."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean, count = fmean(differences), len(differences)
    if count < 2:
        return Difference(rival, mean, -math.inf, math.inf, count, -math.inf, math.inf)
    half = float(student_t.ppf(0.5 + CONFIDENCE / 2, count - 1)) * stdev(differences) / math.sqrt(count)
    students = (mean - half, mean + half)
    return Difference(rival, mean, *students, count, *(bootstrap_interval(differences) or students))


def bootstrap_interval(differences: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean by the BCa bootstrap (Efron 1987), the same at every call.

    ``None`` where it cannot be computed: fewer than three differences, or all of them equal.
    """
    if len(differences) < LEAST_RESAMPLED or len(set(differences)) == 1:
        return None
    with warnings.catch_warnings():
        # Degenerate data is said by a NaN, too.
        warnings.simplefilter("ignore")
        found = bootstrap(
            (np.asarray(differences, dtype=float),),
            np.mean,
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            method="BCa",
            rng=RESAMPLING_SEED,
        ).confidence_interval
    low, high = float(found.low), float(found.high)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def judge(winner: str, runs: Runs, found_rivals: bool = False, has_credit: bool = True) -> Verdict:
    """Return the verdict.

    Args:
        winner: Name of the search's winning arm.
        runs: Arm name to its seeds' results; only seeds that both arms of a pair finished are compared.
        found_rivals: Whether the search found the rivals (``arms_beside_winner``); otherwise they are the fixed ones.
        has_credit: Whether the winner's shape has any.
    """
    curves = {name: smoothed_mean_curve(_objectives(results)) for name, results in runs.items() if results}
    others = [name for name in runs if name != WINNER and not name.startswith((PLACE, CREDIT))]
    pool = others if found_rivals else [name for name in TUNED if name in others]
    tuned = max((name for name in pool if runs[name]), key=lambda name: _final(runs[name]), default="")
    credit = [name for name in runs if name.startswith(CREDIT)]
    compared = (SPARSE, tuned, *others, *credit) if found_rivals else (SPARSE, tuned, UNIFORM)
    rivals = [name for name in dict.fromkeys(compared) if _shared_seeds(runs, WINNER, name)]
    differences = tuple(_against(rival, runs, WINNER) for rival in rivals)
    level = curves[tuned][-1] if tuned else math.inf
    steps = {name: first_step_reaching(curve, level) for name, curve in curves.items()}
    total = len(next(iter(curves.values())))
    is_at_first = bool(tuned) and steps.get(WINNER) == SMOOTHING_STEPS < total
    is_idle = is_at_first and _hardly_rises(runs[tuned], curves[tuned])
    text = _words(winner, differences, tuned, steps, total, is_idle)
    if not has_credit:
        text.insert(1, f"{winner} needs no credit: where its reward falls does not depend on what was said.")
    text += _words_of_learning(rivals, {**runs, UNTRAINED: untrained_runs(runs)})
    return Verdict(winner, differences, tuned, steps, total, tuple(text))


def untrained_runs(runs: Runs) -> list[RunResult]:
    """Return the policy before training as if it were an arm's runs, seed by seed; empty where nothing measured it."""
    measured = (run.before_training() for run in runs.get(SPARSE, []))
    return [run for run in measured if run is not None]


def named(arms: Sequence[str]) -> str:
    """Return at least one arm's name in a sentence; quoted, for names have commas of their own."""
    *others, last = (f"'{arm}'" for arm in arms)
    return f"{', '.join(others)} and {last}" if others else last


def _objectives(results: Sequence[RunResult]) -> list[list[float]]:
    return [result.objective_curve for result in results]


def _final(results: Sequence[RunResult]) -> float:
    return fmean(result.objective for result in results)


def _against(rival: str, runs: Runs, arm: str) -> Difference:
    ours = {run.seed: run.objective for run in runs[arm]}
    theirs = {run.seed: run.objective for run in runs[rival]}
    shared = _shared_seeds(runs, arm, rival)
    return paired_difference(rival, [ours[seed] for seed in shared], [theirs[seed] for seed in shared])


def _shared_seeds(runs: Runs, arm: str, rival: str) -> list[int]:
    return sorted({run.seed for run in runs.get(arm, [])} & {run.seed for run in runs.get(rival, [])})


def _hardly_rises(results: Sequence[RunResult], curve: Sequence[float]) -> bool:
    """Return whether an arm is at its final level, but for luck, as soon as there is a mean of its curve to look at."""
    error = mean_and_error([run.objective for run in results])[1] or 0.0
    return curve[-1] - curve[SMOOTHING_STEPS - 1] <= error


def _words(
    winner: str,
    differences: Sequence[Difference],
    tuned: str,
    steps: dict[str, int | None],
    total: int,
    is_idle: bool,
) -> list[str]:
    if not differences:
        return [f"{winner} shares no fresh seed with a baseline: there is nothing to compare."]
    if all(difference.seeds < 2 for difference in differences):
        return [f"{winner} was run on one fresh seed only: one pair decides nothing."]
    gains = [difference for difference in differences if difference.is_gain]
    if len(gains) == len(differences):
        lines = [f"{winner} beats every baseline in J on fresh seeds."]
    elif gains:
        beaten, others = (named([d.rival for d in differences if d.is_gain is said]) for said in (True, False))
        lines = [f"{winner} beats {beaten} in J on fresh seeds, but not {others}."]
    else:
        lines = ["No shape beat a baseline in J on fresh seeds."]
    lines += [
        f"J against {d.rival}: {d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}] "
        f"(bootstrap [{d.bootstrap_low:+.3f}, {d.bootstrap_high:+.3f}]) over {d.seeds} paired seeds."
        for d in differences
    ]
    ours, theirs = steps.get(WINNER), steps.get(tuned)
    if is_idle:
        lines.append(f"The final level of '{tuned}' is no higher than where runs begin: steps to it say nothing.")
    elif tuned and ours:
        lines.append(f"It reaches the final level of '{tuned}' after {ours} steps; that run took {theirs} of {total}.")
    elif tuned:
        lines.append(f"It does not reach the final level of '{tuned}' within {total} steps.")
    return lines


def _words_of_learning(rivals: Sequence[str], runs: Runs) -> list[str]:
    """Return what training itself was worth, of arms that share two seeds or more with what was before it."""
    judged = [arm for arm in (WINNER, *rivals) if len(_shared_seeds(runs, arm, UNTRAINED)) > 1]
    if not judged:
        return []
    level = f"Before training J is {_final(runs[UNTRAINED]):z.3f}"
    learned = {arm for arm in judged if _against(UNTRAINED, runs, arm).is_gain}
    if not learned:
        remedy = "raise ppo.learning_rate or ppo.steps where KL is near 0, lower the rate where it is large"
        return [f"{level}, and no arm can be told to end above it: nothing was learned that shows; {remedy}."]
    idle = [arm for arm in judged if arm in rivals and arm not in learned]
    if not idle:
        return [f"{level}; every baseline ends above it."]
    return [f"{level}: {named(idle)} cannot be told to end above it, and to beat that says little."]
