"""The pooled error of a trial's mean."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from scipy.stats import chi2

from pipeline.search.observations import LEAST_FREEDOM, pooled_error

SEEDS = (3, 5)


def table(trials: int, seeds: tuple[int, ...], noise: float, shared: float, chance: random.Random) -> dict:
    of_seed = {seed: chance.gauss(0, shared) for seed in seeds}
    return {
        index: {seed: 10 * index + of_seed[seed] + chance.gauss(0, noise) for seed in seeds} for index in range(trials)
    }


def test_two_seeds_agree_with_the_spread_of_their_differences() -> None:
    values = table(9, SEEDS, noise=0.5, shared=3.0, chance=random.Random(0))
    differences = [trial[5] - trial[3] for trial in values.values()]
    # Half of a difference's variance is one run's, and a mean of two has half of that.
    expected = math.sqrt(np.var(differences, ddof=1) / 2 / 2)
    assert pooled_error(values, SEEDS) == pytest.approx(expected)


@pytest.mark.parametrize("shared", [0.0, 5.0])
def test_error_is_that_of_the_noise_whatever_a_seed_does_to_all_trials_alike(shared: float) -> None:
    chance, noise, seeds = random.Random(1), 0.4, (0, 1, 2)
    squares = [pooled_error(table(10, seeds, noise, shared, chance), seeds) for _ in range(200)]
    ratio = sum(each**2 for each in squares if each) / len(squares) / (noise**2 / len(seeds))
    freedom = 200 * 9 * 2
    assert chi2.ppf(1e-4, freedom) / freedom < ratio < chi2.ppf(1 - 1e-4, freedom) / freedom


def test_little_evidence_gives_no_error() -> None:
    chance = random.Random(2)
    assert pooled_error(table(50, (0,), 1.0, 1.0, chance), (0,)) is None
    assert pooled_error(table(LEAST_FREEDOM, SEEDS, 1.0, 1.0, chance), SEEDS) is None
    assert pooled_error(table(LEAST_FREEDOM + 1, SEEDS, 1.0, 1.0, chance), SEEDS) is not None
    assert pooled_error({}, SEEDS) is None


def test_trial_that_lacks_a_seed_is_left_out() -> None:
    values = table(9, SEEDS, 1.0, 1.0, random.Random(3))
    with_half = {**values, 99: {3: 1e6}}
    assert pooled_error(with_half, SEEDS) == pooled_error(values, SEEDS)
