"""What is compared: finals paired by seed, steps to a level, and reward at matched KL, each with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ttest_rel

from benchmarks.papers.runs import COMPLETED, Run
from pipeline.study.verdict import Difference, paired_difference
from pipeline.trials.statistics import first_step_reaching, smoothed_mean_curve

RESAMPLES, RESAMPLING_SEED = 2_000, 0

Runs = Sequence[Run]


def completed(runs: Runs) -> dict[int, Run]:
    """Return by seed the runs that came to something."""
    return {run.seed: run for run in runs if run.state == COMPLETED}


def pairs(ours: Runs, theirs: Runs) -> list[tuple[Run, Run]]:
    """Return the runs of the seeds that both finished."""
    mine, others = completed(ours), completed(theirs)
    return [(mine[seed], others[seed]) for seed in sorted(set(mine) & set(others))]


def gain(ours: Runs, theirs: Runs) -> Difference:
    """Return the paired difference of J."""
    both = pairs(ours, theirs)
    return paired_difference("", [a.objective for a, _ in both], [b.objective for _, b in both])


def before_training(runs: Runs, kl_coef: float) -> float:
    """Return the mean J of the policy that runs start from, on the prompts that are looked at along the way."""
    return fmean(_objectives_held_out(run, kl_coef)[0] for run in completed(runs).values())


def gain_by_training(runs: Runs, kl_coef: float) -> Difference:
    """Return the paired difference of J, at the last look minus before training, on the same held-out prompts."""
    looks = [_objectives_held_out(run, kl_coef) for run in completed(runs).values()]
    return paired_difference("", [each[-1] for each in looks], [each[0] for each in looks])


def _objectives_held_out(run: Run, kl_coef: float) -> list[float]:
    return [reward - kl_coef * kl for kl, reward, _ in run.held_out]


def p_value(ours: Runs, theirs: Runs) -> float:
    """Return the two-sided p of the paired t test of J; 1 for fewer than two pairs."""
    both = pairs(ours, theirs)
    if len(both) < 2:
        return 1.0
    return float(ttest_rel([a.objective for a, _ in both], [b.objective for _, b in both]).pvalue)


def corrected(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values that hold for all comparisons at once (Holm, 1979)."""
    order = sorted(p_values, key=lambda name: p_values[name])
    least, found = 0.0, {}
    for place, name in enumerate(order):
        least = max(least, min(1.0, (len(order) - place) * p_values[name]))
        found[name] = least
    return found


def corrected_p_values(runs: Mapping[str, Runs], rival: str) -> dict[str, float]:
    """Return every method's p against the rival, corrected for all of these comparisons."""
    return corrected({name: p_value(each, runs[rival]) for name, each in runs.items() if name != rival})


def within_kl(run: Run, kl_nats: float) -> float:
    """Return the best held-out reward that a run had at no more than so much KL.

    Between evaluations a straight line is drawn. Not the reward when KL *first* came to the level: KL falls again while
    reward stays, and what a run is worth then would be passed over.
    """
    points = [(kl, reward) for kl, reward, _ in run.held_out]
    found = [reward for kl, reward in points if kl <= kl_nats]
    for (kl, reward), (then_kl, then_reward) in pairwise(points):
        if (kl - kl_nats) * (then_kl - kl_nats) < 0:
            found.append(reward + (then_reward - reward) * (kl_nats - kl) / (then_kl - kl))
    return max(found)


def gain_at_matched_kl(ours: Runs, theirs: Runs) -> Difference:
    """Return the paired difference of held-out reward, each pair within the smaller of its two largest KLs."""
    mine, others = [], []
    for a, b in pairs(ours, theirs):
        level = min(max(kl for kl, *_ in run.held_out) for run in (a, b))
        mine.append(within_kl(a, level))
        others.append(within_kl(b, level))
    return paired_difference("", mine, others)


@dataclass(frozen=True)
class StepsRatio:
    """Steps to a rival's final J, over the steps that the rival took.

    Attributes:
        value: Of the mean curves; above 1 where the level is not reached.
        low: Lower bound by the bootstrap over seeds.
        high: Upper bound.
        steps: To the level; ``None`` where it is not reached.
        seeds: Paired.
    """

    value: float
    low: float
    high: float
    steps: int | None
    seeds: int


def steps_ratio(ours: Runs, theirs: Runs) -> StepsRatio:
    """Return how soon the mean smoothed curve reaches the rival's final level; seeds are resampled in pairs."""
    both = pairs(ours, theirs)
    mine, others = (np.array([pair[side].curve for pair in both]) for side in (0, 1))
    total, steps = mine.shape[1], _steps(mine, others)
    chooser = np.random.default_rng(RESAMPLING_SEED)
    drawn = (chooser.integers(len(both), size=len(both)) for _ in range(RESAMPLES))
    ratios = [_ratio(_steps(mine[rows], others[rows]), total) for rows in drawn]
    low, high = np.quantile(ratios, [0.025, 0.975])
    return StepsRatio(_ratio(steps, total), float(low), float(high), steps, len(both))


def _steps(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> int | None:
    level = smoothed_mean_curve(theirs.tolist())[-1]
    return first_step_reaching(smoothed_mean_curve(ours.tolist()), level)


def _ratio(steps: int | None, total: int) -> float:
    # A level that was not reached takes longer than all steps, nobody knows how much.
    return (total + 1 if steps is None else steps) / total


def median(runs: Runs, name: str) -> float:
    """Return the median of a measure over the runs that came to something."""
    values = [value for run in completed(runs).values() if not math.isnan(value := getattr(run, name))]
    return float(np.median(values)) if values else math.nan
