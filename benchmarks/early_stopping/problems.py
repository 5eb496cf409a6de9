"""A landscape whose every trial has a curve: what training at a point measures, step by step and at the end.

Built from real quickstart runs. The mean of every step is a Gaussian process of its own; the last column is the
end, held-out J, and is that of the ``replay`` landscape. Luck is a whole vector of residuals, 20 steps and the end, of
one real run, so that steps go together with each other and with the end as they do in training.

Luck is that of runs on one seed, from which what the seed does to all rows alike was taken out. It moves curves a lot,
by up to 0.24 at one step, but the same for all trials of a study at a place on their curves: early stopping compares
trials at the same place, on the same seeds, and its projection is a line through them. Nothing depends on it.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from benchmarks.common.cache import DATA
from benchmarks.outer.problems import (
    SEEDS,
    SHARED_SEED,
    Landscape,
    Runs,
    features,
    fitted,
    landscape,
    measured_runs,
    noise_level,
    residuals,
    variances,
)

STEPS = 20
# Before, policies of one seed have hardly parted, and their noise is not yet that of training.
FIRST_NOISY = 4
LUCK = 31
Array = np.ndarray


@dataclass(frozen=True)
class CurveLandscape:
    """Curves and ends over the space, with the luck of real runs.

    Attributes:
        ends: True ends, and the deviation of a trial's, which is the mean of its seeds.
        means: Of ``n x 4`` rows, ``n x 21``: every step's true J, then the end's.
        deviations: Of the same rows, ``n x 21``: what luck is multiplied by.
        lucks: ``runs x 21``: one real run's residuals each, over the deviations at its row.
    """

    ends: Landscape
    means: Callable[[Array], Array]
    deviations: Callable[[Array], Array]
    lucks: Array

    def run(self, row: Array, repeat: int, trial: int, seed: int) -> Array:
        """Return what one run measures: 20 steps and the end.

        Its luck depends on ``repeat``, ``trial`` and ``seed`` alone, so that searches of one repeat share it.
        """
        drawn = np.random.default_rng([repeat, trial, seed, LUCK]).integers(len(self.lucks))
        return np.asarray((self.means(row[None]) + self.deviations(row[None]) * self.lucks[drawn])[0])


def measured_vectors() -> tuple[Array, Array]:
    """Return the real runs' 20 steps and ends: ``rows x 21`` on the shared seed, then on every row's own."""
    with DATA.open(newline="") as file:
        found = list(csv.DictReader(file))
    shared = {run["point"]: _vector(run) for run in found if int(run["seed"]) == SHARED_SEED}
    own = {run["point"]: _vector(run) for run in found if int(run["seed"]) != SHARED_SEED}
    points = [point for point in shared if point in own]
    return np.array([shared[point] for point in points]), np.array([own[point] for point in points])


def _vector(run: dict[str, str]) -> list[float]:
    return [*map(float, run["curve"].split()), float(run["objective"])]


def alike(model: GaussianProcessRegressor, runs: Runs) -> GaussianProcessRegressor:
    """Return a process of the rows' means with the length scales of another one; amplitude and noise are its own.

    A single step is too noisy to tell length scales by: left free, early steps' run to their bounds.
    """
    kernel = ConstantKernel(1.0) * RBF(model.kernel_.k1.k2.length_scale, "fixed") + WhiteKernel(0.3, (1e-4, 10.0))
    found = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=2, random_state=0)
    return found.fit(features(runs.rows), runs.means)


@cache
def curve_landscape() -> CurveLandscape:
    """Return the landscape of the real runs' curves.

    The end's deviation is that of ``replay``. The curve's falls with the true end, too, but less: one line for the
    logarithm of all steps' variances. What a process misses at a row is in both of its runs and no luck; luck is made
    as much smaller, the curve's by the share that was found for the end, because single steps do not show it.
    """
    ends, runs = landscape("replay"), measured_runs()
    (shared, own), model = measured_vectors(), fitted(runs)
    steps = [Runs(runs.rows, shared[:, step], own[:, step]) for step in range(STEPS)]
    models = [alike(model, each) for each in steps]
    left = np.column_stack(
        [*(residuals(each, found)[0] for each, found in zip(steps, models, strict=True)), residuals(runs, model)[0]]
    )
    left -= left.mean(axis=0)
    curve_level = relative_level(ends.mean(runs.rows), (own - shared)[:, FIRST_NOISY:STEPS])

    def deviations(rows: Array) -> Array:
        of_curve = np.sqrt(curve_level(ends.mean(rows)))
        return np.column_stack([*[of_curve] * STEPS, ends.deviation(rows) * np.sqrt(len(SEEDS))])

    def means(rows: Array) -> Array:
        seen = features(rows)
        return np.column_stack([*(found.predict(seen) for found in models), ends.mean(rows)])

    lucks = left / deviations(runs.rows)
    paired, _ = variances(*residuals(runs, model))
    lucks[:, :STEPS] *= np.sqrt(paired / np.mean(residuals(runs, model)[0] ** 2))
    lucks[:, STEPS] /= lucks[:, STEPS].std()
    return CurveLandscape(ends, means, deviations, lucks)


def relative_level(means: Array, differences: Array) -> Callable[[Array], Array]:
    """Return how the variance of a step depends on the row's true end, as a multiple of that at the mean row.

    Args:
        means: True ends of ``n`` rows.
        differences: Between a row's two runs, ``n x steps``; every step counts in units of its own deviation.
    """
    unit = (differences - differences.mean(axis=0)) / differences.std(axis=0)
    level = noise_level(np.repeat(means, unit.shape[1]), unit.ravel())
    middle = level(np.array([means.mean()]))
    return lambda given: level(given) / middle
