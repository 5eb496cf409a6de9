"""Does fidelity predict learning? The rank correlation over methods of what they know and what is learned from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from benchmarks.fidelity.agreement import Values, correlations
from benchmarks.fidelity.field import Contender
from benchmarks.fidelity.measure import Judged
from benchmarks.fidelity.training import LAMBDAS, Learned
from benchmarks.papers.comparison import FIRST_SEED
from benchmarks.papers.field import REWARD_MODEL
from benchmarks.papers.measures import completed
from benchmarks.papers.runs import Run

RESAMPLES, RESAMPLING_SEED = 2_000, 0
# Methods that agree with the truth up to rounding are equals.
DIGITS = 3
# Fewer have no rank correlation worth the name.
FEWEST_METHODS = 3


@dataclass(frozen=True)
class Relation:
    """A rank correlation over methods.

    Attributes:
        fidelity: Which measure of fidelity; higher is better in all.
        learning: Which measure of learning.
        value: Spearman's; not a number where there are too few methods.
        low: Lower end of the 95 % interval: methods are drawn again, and the seeds of each.
        high: Its upper end.
        methods: How many.
    """

    fidelity: str
    learning: str
    value: float
    low: float
    high: float
    methods: int


def final(run: Run) -> float:
    """Return J on held-out prompts at a run's end."""
    return run.objective


def along(run: Run) -> float:
    """Return the mean of J over the training batches: the area under the learning curve."""
    return fmean(run.curve)


LEARNING = {"final J": final, "mean J along the curve": along}
OVERALL = "mean J along the curve, both lambdas"
UNINFORMED = "mean J along the curve, critics from nothing"


def truths(judged: Mapping[str, Judged]) -> dict[str, dict[str, float]]:
    """Return the measures of fidelity against a truth, each a mean over responses for every method."""
    return {
        "correlation": {name: float(each.attributed.correlation.mean()) for name, each in judged.items()},
        "correlation as paid": {name: float(each.paid.correlation.mean()) for name, each in judged.items()},
    }


def relations_of(fidelity: Mapping[str, Mapping[str, float]], learned: Learned) -> list[Relation]:
    """Return each measure of fidelity with each of learning, at each lambda; ``OVERALL`` comes first."""
    methods = list(next(iter(fidelity.values())))
    by_lambda = [{name: learned.get((name, each), []) for name in methods} for each in LAMBDAS]
    learning = {OVERALL: over_lambdas(by_lambda, "mean J along the curve")}
    for measured in LEARNING:
        for runs, gae_lambda in zip(by_lambda, LAMBDAS, strict=True):
            learning[f"{measured}, lambda {gae_lambda:g}"] = values(runs, measured)
    return [relate(known, found) for known in fidelity.items() for found in learning.items()]


def relate(fidelity: tuple[str, Mapping[str, float]], learning: tuple[str, Mapping[str, Sequence[float]]]) -> Relation:
    """Return how methods' fidelity goes together with what was learned from them, a value for each seed.

    Args:
        fidelity: The measure's name, and each method's value.
        learning: The measure's name, and each method's values; methods without any are left out.
    """
    methods = [name for name in fidelity[1] if learning[1].get(name)]
    if len(methods) < FEWEST_METHODS:
        return Relation(fidelity[0], learning[0], math.nan, math.nan, math.nan, len(methods))
    known = np.round([fidelity[1][name] for name in methods], DIGITS)
    seeds = [np.array(learning[1][name]) for name in methods]
    chooser = np.random.default_rng(RESAMPLING_SEED)
    drawn = np.array([chooser.choice(each, (RESAMPLES, len(each))).mean(axis=1) for each in seeds]).T
    rows = chooser.integers(len(methods), size=(RESAMPLES, len(methods)))
    resampled = correlations(known[rows], np.take_along_axis(drawn, rows, axis=1), ranks=True)
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    means = np.array([each.mean() for each in seeds])
    return Relation(fidelity[0], learning[0], spearman(known, means), float(low), float(high), len(methods))


def spearman(ours: Values, theirs: Values) -> float:
    """Return Spearman's rank correlation; not a number where one side is constant."""
    return float(correlations(ours[None], theirs[None], ranks=True)[0])


def values(runs: Mapping[str, Sequence[Run]], learning: str) -> dict[str, list[float]]:
    """Return each method's values of a measure of learning, a value for each seed that came to something."""
    return {name: [LEARNING[learning](run) for run in completed(each).values()] for name, each in runs.items()}


def over_lambdas(by_lambda: Sequence[Mapping[str, Sequence[Run]]], learning: str) -> dict[str, list[float]]:
    """Return each method's mean over lambdas, a value for each seed that all of them finished."""
    found = {}
    for name in by_lambda[0]:
        each = [completed(runs[name]) for runs in by_lambda]
        common = sorted(set.intersection(*(set(runs) for runs in each)))
        found[name] = [fmean(LEARNING[learning](runs[seed]) for runs in each) for seed in common]
    return found


def uninformed(field: Sequence[Contender], saved: Sequence[Run]) -> dict[str, list[float]]:
    """Return the mean J along the curve of the papers' comparison's tuning runs without an informed critic.

    By method, a value for each seed: the mean over all lambdas. There credit is all that tells tokens apart.
    """
    runs = [run for run in saved if run.seed < FIRST_SEED and run.critic != REWARD_MODEL]
    by_lambda = [
        {
            each.method: [run for run in runs if (run.entrant, run.gae_lambda) == (each.entrant, gae_lambda)]
            for each in field
        }
        for gae_lambda in sorted({run.gae_lambda for run in runs})
    ]
    return over_lambdas(by_lambda, "mean J along the curve") if by_lambda else {}


def compared(field: Sequence[Contender], saved: Sequence[Run]) -> dict[str, list[Run]]:
    """Return the papers' comparison's runs on fresh seeds, by the method whose credit they learned from.

    Of an entrant that was run at several settings, the one with the most runs counts: that is where it was tuned to.
    """
    found = {}
    for contender in field:
        settings: dict[tuple[float, str], list[Run]] = {}
        for run in saved:
            if run.entrant == contender.entrant and run.seed >= FIRST_SEED:
                settings.setdefault((run.gae_lambda, run.critic), []).append(run)
        if settings:
            found[contender.method] = max(settings.values(), key=len)
    return found
