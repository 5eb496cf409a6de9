"""The benchmark of rugged games: its games, and a small run of its comparison."""

from __future__ import annotations

import numpy as np
import pytest
from torch import Tensor

from benchmarks.credit.rugged import (
    NARROW,
    WIDE,
    measure,
    over_shapiq,
    pairs_and_noise,
    random_transformer,
    saturating_sum,
)
from shaping.credit.coalition_plan import all_coalitions

pytest.importorskip("shapiq")


def share_of_interactions(game: Tensor) -> float:
    """Return how much of a game's variance no sum over single units holds."""
    values, members = game.numpy(), all_coalitions(12).double().numpy()
    design = np.hstack([members, np.ones((len(members), 1))])
    left = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return float(left.var() / values.var())


def test_random_transformers_are_mostly_interaction_and_a_saturating_sum_is_not() -> None:
    shares = [share_of_interactions(random_transformer(0, width)) for width in (WIDE, NARROW)]
    assert min(shares) > 0.5 > share_of_interactions(saturating_sum(0))


def test_games_are_the_same_for_the_same_seed() -> None:
    assert bool((pairs_and_noise(3) == pairs_and_noise(3)).all())
    assert not bool((pairs_and_noise(3) == pairs_and_noise(4)).all())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_error_is_no_larger_than_shapiqs_at_any_budget_on_rugged_games() -> None:
    errors = measure([random_transformer(seed, WIDE) for seed in range(6)], seeds=3)
    for budget, found in errors.items():
        claim = over_shapiq(f"rugged_{budget}", found)
        assert claim.low <= claim.value <= claim.high
        assert claim.value <= 1.0
