"""Landscapes to search: a replay of real quickstart trials, and two closed forms at two noise levels each.

A row is a point of the space: the three methods' shares of the whole reward, what they leave being sparse's, and
GAE's lambda.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.optimize import minimize
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from benchmarks.common.cache import DATA
from search_spaces import CreditMix
from shaping.shape import Shape

METHODS = ("prefix", "attention", "shapley")
SPACE = CreditMix(Shape(gae_lambda=0.95), METHODS)
LAMBDA = SPACE.gae_lambda
SEEDS = (0, 1)
SHARED_SEED = 0
NAMES = ("replay", "peak_3", "peak_10", "face_3", "face_10")
DRAWN, POLISHED = 20_000, 12
PEAK = np.array([0.45, 0.1, 0.25])
Array = np.ndarray


@dataclass(frozen=True)
class Landscape:
    """A function of ``n x 4`` rows, seen through noise.

    Attributes:
        name: In tables and claims.
        mean: The true value of every row; higher is better.
        deviation: Standard deviation of a trial's value, which is the mean of its two seeds, at every row.
        best: The true maximum.
        span: Maximum less minimum: what regret is measured in.
    """

    name: str
    mean: Callable[[Array], Array]
    deviation: Callable[[Array], Array]
    best: float
    span: float

    def regret(self, row: Array) -> float:
        """Return how far below the maximum a row truly is, as a share of the span."""
        return max(0.0, (self.best - float(self.mean(row[None])[0])) / self.span)

    def observer(self, seed: int) -> Callable[[Array], tuple[float, ...]]:
        """Return a function from a row to what its two seeds measured.

        The noise of the first, second, ... trial depends on ``seed`` alone, so that all searchers have the same luck.
        What a seed does to all trials alike is left out: every trial of a study has the same seeds, and a constant
        changes no comparison.
        """
        chooser = np.random.default_rng([seed, 7])

        def observe(row: Array) -> tuple[float, ...]:
            luck = chooser.normal(size=len(SEEDS)) * float(self.deviation(row[None])[0]) * np.sqrt(len(SEEDS))
            return tuple(float(self.mean(row[None])[0]) + luck)

        return observe


@cache
def landscape(name: str) -> Landscape:
    """Return a landscape by its name; the number in a closed form's is its noise in percent of its span."""
    if name == "replay":
        return replay("objective")
    form, percent = name.split("_")
    mean = {"peak": peak, "face": face}[form]
    best, span = extremes(mean)
    deviation = int(percent) / 100 * span
    return Landscape(name, mean, lambda rows: np.full(len(rows), deviation), best, span)


def peak(rows: Array) -> Array:
    """Return a closed form with one maximum, inside the simplex, at a lambda that depends on sparse's share."""
    shares, gae_lambda = rows[:, :3], _unit_lambda(rows)
    miss = ((shares - PEAK) ** 2 * np.array([1.0, 2.0, 1.5])).sum(axis=1)
    found: Array = -miss - 0.4 * (gae_lambda - (1 - 0.6 * shares.sum(axis=1))) ** 2
    return found


def face(rows: Array) -> Array:
    """Return a closed form with diminishing returns of two methods, harm of a third and the maximum on a face."""
    shares, gae_lambda = rows[:, :3], _unit_lambda(rows)
    gain = 1.2 * np.tanh(2.5 * shares[:, 0]) + 0.7 * np.tanh(3 * shares[:, 2]) - 0.9 * shares[:, 1]
    found: Array = gain - 0.5 * (gae_lambda - 0.35 - 0.3 * shares[:, 2]) ** 2
    return found


def extremes(mean: Callable[[Array], Array]) -> tuple[float, float]:
    """Return the maximum, and how far the minimum is below it: the best of many rows, climbed from there."""
    rows = many_rows()
    values = mean(rows)
    highest = max(_climbed(mean, rows[place]) for place in np.argsort(-values)[:POLISHED])
    lowest = -max(_climbed(lambda given: -mean(given), rows[place]) for place in np.argsort(values)[:POLISHED])
    return highest, highest - lowest


def _climbed(mean: Callable[[Array], Array], start: Array) -> float:
    found = minimize(
        lambda row: -float(mean(row[None])[0]),
        start,
        method="SLSQP",
        bounds=[(0, 1)] * len(METHODS) + [LAMBDA],
        constraints={"type": "ineq", "fun": lambda row: 1 - row[:-1].sum()},
        options={"maxiter": 200, "ftol": 1e-12},
    ).x
    found = np.array([*np.clip(found[:-1], 0, 1), np.clip(found[-1], *LAMBDA)])
    found[:-1] /= max(1.0, found[:-1].sum())
    return float(max(mean(np.stack([start, found]))))


@cache
def many_rows() -> Array:
    """Return rows all over the space: its corners, then random ones, a third of them on faces."""
    chooser = np.random.default_rng(1)
    parts = chooser.dirichlet(np.ones(len(METHODS) + 1), DRAWN)
    for place in range(0, DRAWN, 3):
        parts[place, chooser.choice(len(METHODS) + 1, size=chooser.integers(1, 4), replace=False)] = 0
        parts[place] /= parts[place].sum()
    gae_lambda = chooser.uniform(*LAMBDA, DRAWN)
    ends = chooser.random(DRAWN) < 0.2
    gae_lambda[ends] = chooser.choice(LAMBDA, int(ends.sum()))
    corners = [[*share, end] for share in [*np.eye(len(METHODS)), np.zeros(len(METHODS))] for end in LAMBDA]
    return np.vstack([corners, np.column_stack([parts[:, :-1], gae_lambda])])


def row_of(shape: Shape) -> Array:
    """Return a shape of the space as a row."""
    shares = shape.active_methods()
    return np.array([*(shares.get(name, 0.0) for name in METHODS), shape.gae_lambda])


def point_of(row: Array) -> dict[str, float]:
    """Return a row as a point of ``SPACE``."""
    names = [parameter.name for parameter in SPACE.parameters()]
    return {name: float(value) for name, value in zip(names, row, strict=True)}


@dataclass(frozen=True)
class Runs:
    """Real runs of one measure: at every row one on the seed that all rows share and one on a seed of its own."""

    rows: Array
    shared: Array
    own: Array

    @property
    def means(self) -> Array:
        """Each row's mean, as if the shared seed did to all what other seeds do on average."""
        found: Array = (self.own + self.shared + (self.own - self.shared).mean()) / 2
        return found


def measured_runs(measure: str = "objective") -> Runs:
    """Return what ``benchmarks.outer.landscape_trials`` measured."""
    with DATA.open(newline="") as file:
        found = list(csv.DictReader(file))
    shared = {run["point"]: run for run in found if int(run["seed"]) == SHARED_SEED}
    own = {run["point"]: run for run in found if int(run["seed"]) != SHARED_SEED}
    pairs = [(shared[point], own[point]) for point in shared if point in own]
    # The file has weights among the methods and their balance with sparse.
    rows = [
        [*(float(run[f"weight_{name}"]) * float(run["balance"]) for name in METHODS), float(run["gae_lambda"])]
        for run, _ in pairs
    ]
    values = np.array([[float(run[measure]) for run in pair] for pair in pairs])
    return Runs(np.array(rows), values[:, 0], values[:, 1])


def replay(measure: str) -> Landscape:
    """Return the landscape of the real runs: the mean of a Gaussian process, with the noise of real runs.

    Noise is that of runs on a shared seed, since a study's trials share their seeds. It falls as the mean rises:
    the two runs of a row differ by twice as much among the worst rows as among the best.
    """
    runs = measured_runs(measure)
    model = fitted(runs)
    paired, unpaired = variances(*residuals(runs, model))
    level = noise_level(model.predict(features(runs.rows)), runs.own - runs.shared)
    share = 2 * paired / (paired + unpaired) / len(SEEDS)
    best, span = extremes(lambda rows: model.predict(features(rows)))
    return Landscape(
        "replay",
        lambda rows: model.predict(features(rows)),
        lambda rows: np.sqrt(share * level(model.predict(features(rows)))),
        best,
        span,
    )


def fitted(runs: Runs) -> GaussianProcessRegressor:
    """Return a Gaussian process of the rows' means, its scales and noise by maximum likelihood."""
    kernel = ConstantKernel(1.0) * RBF([1.0] * (len(METHODS) + 1), (0.1, 50.0)) + WhiteKernel(0.05, (1e-4, 1.0))
    model = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=4, random_state=0)
    return model.fit(features(runs.rows), runs.means)


def residuals(runs: Runs, model: GaussianProcessRegressor) -> tuple[Array, Array]:
    """Return how far the shared-seed and the own-seed run of every row are from what all other rows predict.

    Leave-one-out in closed form (Rasmussen and Williams, 2006, equation 5.12); what the shared seed does to all
    rows alike is taken out.
    """
    inverse = np.linalg.inv(model.kernel_(features(runs.rows)))
    centred = runs.means - runs.means.mean()
    predicted = runs.means - inverse @ centred / np.diag(inverse)
    offset = (runs.own - runs.shared).mean()
    return runs.shared + offset - predicted, runs.own - predicted


def variances(shared: Array, own: Array) -> tuple[float, float]:
    """Return the variance of one run's noise where seeds are shared, and where every row has its own.

    What the model misses at a row is in both of its runs: their covariance, which is taken off.
    """
    missed = float(np.mean(shared * own))
    return float(np.mean(shared**2)) - missed, float(np.mean(own**2)) - missed


def noise_level(means: Array, differences: Array) -> Callable[[Array], Array]:
    """Return the variance of one run as a function of its mean: log-linear, by maximum likelihood.

    Args:
        means: Of every row.
        differences: Between its two runs, whose variance is twice that of one.
    """
    centred = differences - differences.mean()

    def misfit(line: Array) -> float:
        logs = line[0] + line[1] * means
        return float((logs + centred**2 / 2 * np.exp(-logs)).sum())

    flat = np.array([np.log(np.mean(centred**2) / 2), 0.0])
    intercept, slope = minimize(misfit, flat, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9}).x
    return lambda given: np.exp(intercept + slope * given)


def features(rows: Array) -> Array:
    """Return what the process sees: the shares, and lambda on [0, 1]."""
    return np.column_stack([rows[:, :-1], _unit_lambda(rows)])


def _unit_lambda(rows: Array) -> Array:
    return (rows[:, -1] - LAMBDA[0]) / (LAMBDA[1] - LAMBDA[0])
