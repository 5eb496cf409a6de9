from itertools import permutations
from math import factorial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shaping import METHODS
from tests.tiny_models import GameRewardModel, additive_game, members_of_all, random_game

seeds = st.integers(0, 10_000)
modest = settings(derandomize=True, deadline=None, max_examples=25)


def shapley(values: torch.Tensor) -> torch.Tensor:
    return METHODS["shapley"].credit(GameRewardModel(values).batch()).values[0]


def by_permutations(values: torch.Tensor) -> torch.Tensor:
    """Return the mean marginal contribution over all ``N!`` orders, one at a time."""
    players = len(values).bit_length() - 1
    total = torch.zeros(players, dtype=torch.float64)
    for order in permutations(range(players)):
        coalition = 0
        for player in order:
            joined = coalition | 1 << player
            total[player] += float(values[joined]) - float(values[coalition])
            coalition = joined
    return total / factorial(players)


def by_subsets(values: torch.Tensor) -> torch.Tensor:
    """Return the subset formula, for games with too many orders."""
    players = len(values).bit_length() - 1
    result = torch.zeros(players, dtype=torch.float64)
    for player in range(players):
        for coalition in range(2**players):
            if not coalition >> player & 1:
                size = bin(coalition).count("1")
                weight = factorial(size) * factorial(players - size - 1) / factorial(players)
                result[player] += weight * float(values[coalition | 1 << player] - values[coalition])
    return result


@pytest.mark.parametrize("players", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("method", ["shapley", "kernel_shap"])
def test_enumerated_values_equal_mean_over_all_orders(method, players):
    values = random_game(players, seed=players)
    credit = METHODS[method].credit(GameRewardModel(values).batch())
    torch.testing.assert_close(credit.values[0].double(), by_permutations(values), atol=2e-5, rtol=0)
    assert credit.standard_error is None
    assert credit.coalitions == 2**players


@pytest.mark.parametrize("method", ["shapley", "kernel_shap"])
def test_enumerated_values_of_eleven_units_equal_subset_formula(method):
    values = random_game(11, seed=5)
    credit = METHODS[method].credit(GameRewardModel(values).batch())
    torch.testing.assert_close(credit.values[0].double(), by_subsets(values), atol=2e-5, rtol=0)


def test_unanimity_game_splits_evenly_among_its_carrier():
    carrier = 0b01101
    values = torch.tensor([float(coalition & carrier == carrier) for coalition in range(32)])
    torch.testing.assert_close(shapley(values), torch.tensor([1 / 3, 0, 1 / 3, 1 / 3, 0]))


def test_majority_game_splits_evenly():
    values = torch.tensor([float(bin(coalition).count("1") >= 3) for coalition in range(32)])
    torch.testing.assert_close(shapley(values), torch.full((5,), 0.2))


def test_glove_game_pays_the_scarce_glove():
    # Player 0 owns the only left glove, players 1 and 2 a right one each: 2/3, 1/6, 1/6.
    values = torch.tensor([float(coalition & 1 and coalition & 0b110 > 0) for coalition in range(8)])
    torch.testing.assert_close(shapley(values), torch.tensor([2 / 3, 1 / 6, 1 / 6]))


def test_additive_game_gives_each_token_its_value():
    weights = torch.tensor([2.0, -1.0, 0.5, 0.0, 3.0])
    torch.testing.assert_close(shapley(additive_game(weights, base=7.0)), weights)


@modest
@given(seed=seeds, players=st.integers(1, 6))
def test_efficiency(seed, players):
    values = random_game(players, seed)
    torch.testing.assert_close(shapley(values).sum(), values[-1] - values[0], atol=1e-5, rtol=0)


@modest
@given(seed=seeds, players=st.integers(2, 5), pair=st.tuples(st.integers(0, 4), st.integers(0, 4)))
def test_symmetry(seed, players, pair):
    first, second = pair[0] % players, pair[1] % players
    values = random_game(players, seed)
    swapped = members_of_all(players).clone()
    swapped[:, [first, second]] = swapped[:, [second, first]]
    symmetric = values + values[(swapped.long() << torch.arange(players)).sum(dim=1)]
    found = shapley(symmetric)
    torch.testing.assert_close(found[first], found[second], atol=1e-5, rtol=0)


@modest
@given(seed=seeds, players=st.integers(2, 5), place=st.integers(0, 4))
def test_player_that_adds_a_constant_gets_it(seed, players, place):
    dummy = place % players
    member = members_of_all(players)
    without = torch.arange(2**players) & ~(1 << dummy)
    values = random_game(players, seed)[without]
    assert float(shapley(values)[dummy]) == pytest.approx(0, abs=1e-5)
    assert float(shapley(values + 2.5 * member[:, dummy])[dummy]) == pytest.approx(2.5, abs=1e-5)


@modest
@given(seed=seeds, players=st.integers(1, 5), factor=st.floats(-3, 3))
def test_additivity(seed, players, factor):
    one, other = random_game(players, seed), random_game(players, seed + 1)
    torch.testing.assert_close(shapley(one + factor * other), shapley(one) + factor * shapley(other), atol=2e-5, rtol=0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("method", "budget"), [("shapley", 14), ("shapley", 50), ("kernel_shap", 40)])
def test_sampled_values_of_additive_game_are_exact_whatever_the_sample(method, budget, seed):
    weights = torch.tensor([2.0, -1.0, 0.5, 0.0, 3.0, 1.0])
    game = GameRewardModel(additive_game(weights, base=7.0))
    credit = METHODS[method].credit(game.batch(budget, seed))
    torch.testing.assert_close(credit.values[0], weights, atol=2e-5, rtol=0)


@pytest.mark.parametrize("method", ["shapley", "kernel_shap"])
@pytest.mark.parametrize("budget", [1, 2, 3, 4, 5, 6, 7, 9, 15, 31, 63, 127])
@pytest.mark.parametrize("players", [1, 2, 3, 4, 7])
def test_values_sum_to_the_game_at_any_budget(method, budget, players):
    values = random_game(players, seed=3)
    found = METHODS[method].credit(GameRewardModel(values).batch(budget)).values[0]
    torch.testing.assert_close(found.sum(), values[-1] - values[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("budget", [1, 4, 7])
@pytest.mark.parametrize("players", [1, 2, 3, 4])
def test_two_opposite_orders_are_exact_on_an_additive_game(budget, players):
    weights = torch.arange(1.0, players + 1)
    found = METHODS["shapley"].credit(GameRewardModel(additive_game(weights)).batch(budget)).values[0]
    torch.testing.assert_close(found, weights)


@pytest.mark.parametrize("method", ["shapley", "kernel_shap"])
def test_sampled_values_converge_to_the_exact_ones(method):
    values = random_game(9, seed=1)
    exact, game = by_subsets(values).float(), GameRewardModel(values)
    few, many = (METHODS[method].credit(game.batch(budget, rows=60)).values - exact for budget in (40, 480))
    # Twelve times the budget: a third of the error and less.
    assert float(many.abs().mean()) < 0.45 * float(few.abs().mean())
    deviation = many.std(dim=0) / 60**0.5
    assert float((many.mean(dim=0).abs() / deviation).max()) < 4.5


def test_standard_error_of_sampled_shapley_is_honest():
    values = random_game(9, seed=2)
    credit = METHODS["shapley"].credit(GameRewardModel(values).batch(budget=400, rows=200))
    spread = credit.values.std(dim=0)
    told = credit.standard_error.pow(2).mean(dim=0).sqrt()
    torch.testing.assert_close(told, spread, rtol=0.25, atol=0)


def test_kernel_weights_of_a_sample_as_large_as_the_enumeration_are_equal():
    # 13 units are too many to enumerate; 8,190 draws are as many as there are inner coalitions.
    values = additive_game(torch.arange(13.0)) + 0.3 * random_game(13, seed=4)
    game = GameRewardModel(values)
    apart = [METHODS["kernel_shap"].credit(game.batch(budget)).values[0] for budget in (8190, 8192)]
    exact = by_subsets(values).float()
    errors = [float((found - exact).abs().mean()) for found in apart]
    assert errors[1] < 1.5 * errors[0]


def test_budget_bounds_the_coalitions_of_a_sampled_method():
    game = GameRewardModel(random_game(9, seed=1))
    for method in ("shapley", "kernel_shap", "lime"):
        assert METHODS[method].credit(game.batch(budget=64)).coalitions <= 64
