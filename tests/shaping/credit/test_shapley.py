import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shaping import METHODS
from shaping.credit.permutations import chains, marginals, with_reverses
from shaping.credit.shapley_exact import exact_values, shapley_weights
from tests.support.games import airport_game, by_orders, by_subsets, game_of, root_mean_square
from tests.support.models.tiny_models import (
    BOS,
    GameRewardModel,
    additive_game,
    encode,
    make_rollouts,
    members_of_all,
    plain_score,
    random_game,
    scored_batch,
    tiny_classifier,
    tiny_reward_model,
)

seeds = st.integers(0, 10_000)
modest = settings(derandomize=True, deadline=None, max_examples=25)
both = pytest.mark.parametrize("method", ["shapley", "kernel_shap"])


def shapley(values: torch.Tensor) -> torch.Tensor:
    return METHODS["shapley"].credit(GameRewardModel(values).batch()).values[0]


def by_sampled_orders(values, budget, seed=0, rows=1):
    batch = GameRewardModel(values).batch(budget, seed, rows, estimator="permutation")
    return METHODS["shapley"].credit(batch)


@pytest.mark.parametrize("players", [1, 2, 3, 4, 5, 6])
@both
def test_enumerated_values_equal_mean_over_all_orders(method, players):
    values = random_game(players, seed=players)
    credit = METHODS[method].credit(GameRewardModel(values).batch())
    torch.testing.assert_close(credit.values[0].double(), by_orders(values), atol=2e-5, rtol=0)
    assert credit.standard_error is None
    assert credit.coalitions == 2**players


@both
def test_enumerated_values_of_eleven_units_equal_subset_formula(method):
    values = random_game(11, seed=5)
    credit = METHODS[method].credit(GameRewardModel(values).batch())
    torch.testing.assert_close(credit.values[0].double(), by_subsets(values), atol=2e-5, rtol=0)


@pytest.mark.parametrize(("unit", "max_span"), [("token", 4), ("span", 2), ("sentence", 4)])
@both
def test_values_of_a_tiny_transformer_equal_all_orders_over_plain_scores_of_masked_texts(method, unit, max_span):
    prompt, response = [BOS, *encode("the film")], encode("good! a great cast.")[:6]
    batch = scored_batch(tiny_reward_model(), make_rollouts([prompt], [response]), unit, max_span=max_span, max_units=6)
    units = batch.unit_index[0].tolist()

    def worth(inside: set[int]) -> float:
        kept = [token for token, owner in zip(response, units, strict=True) if owner in inside]
        return plain_score(tiny_classifier(), prompt + kept)

    expected = by_orders(game_of(max(units) + 1, worth))
    found = METHODS[method].credit(batch).values[0].double()
    last = [max(t for t, owner in enumerate(units) if owner == number) for number in range(max(units) + 1)]
    torch.testing.assert_close(found[last], expected, atol=1e-4, rtol=0)
    assert float(expected.abs().max()) > 0.1


def test_unanimity_game_splits_evenly_among_its_carrier():
    values = game_of(5, lambda inside: inside >= {0, 2, 3})
    torch.testing.assert_close(shapley(values), torch.tensor([1 / 3, 0, 1 / 3, 1 / 3, 0]))


def test_majority_game_splits_evenly():
    torch.testing.assert_close(shapley(game_of(5, lambda inside: len(inside) >= 3)), torch.full((5,), 0.2))


@pytest.mark.parametrize("players", [4, 5, 7])
def test_apex_player_of_a_weighted_vote_has_all_but_two_nths_of_the_power(players):
    # One vote of N - 2, the others of 1 each, quota N - 1: the apex is pivotal unless it stands first or last.
    votes = [players - 2.0] + [1.0] * (players - 1)
    values = game_of(players, lambda inside: sum(votes[i] for i in inside) >= players - 1)
    expected = torch.full((players,), 2 / (players * (players - 1)))
    expected[0] = (players - 2) / players
    torch.testing.assert_close(shapley(values), expected)


def test_glove_game_pays_the_scarce_glove():
    # Player 0 owns the only left glove, players 1 and 2 a right one each: 2/3, 1/6, 1/6.
    values = game_of(3, lambda inside: 0 in inside and len(inside) > 1)
    torch.testing.assert_close(shapley(values), torch.tensor([2 / 3, 1 / 6, 1 / 6]))


def test_airport_game_shares_each_piece_of_runway():
    values, expected = airport_game([1.0, 2.0, 2.0, 5.0, 9.0, 9.5])
    torch.testing.assert_close(shapley(values), expected)


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


@modest
@given(players=st.integers(1, 12))
def test_weights_of_a_player_sum_to_one_over_gains_and_to_minus_one_over_losses(players):
    weights = shapley_weights(players)
    torch.testing.assert_close(weights.clamp(min=0).sum(dim=0), torch.ones(players, dtype=torch.float64))
    torch.testing.assert_close(weights.clamp(max=0).sum(dim=0), -torch.ones(players, dtype=torch.float64))


def test_exact_values_of_a_batch_are_those_of_each_row():
    games = torch.stack([random_game(4, seed) for seed in range(3)])
    expected = torch.stack([by_orders(values) for values in games])
    torch.testing.assert_close(exact_values(games), expected, atol=1e-6, rtol=0)


def test_chains_add_one_player_after_another():
    orders = torch.tensor([[[2, 0, 1], [1, 2, 0]]])
    bits = (chains(with_reverses(orders)).long() << torch.arange(3)).sum(dim=2)
    # Each order is followed by its reverse.
    assert bits.tolist() == [[0, 4, 5, 7, 0, 2, 3, 7, 0, 2, 6, 7, 0, 1, 5, 7]]


def test_marginals_equal_a_loop_over_the_orders():
    values, generator = random_game(4, seed=8), torch.Generator().manual_seed(0)
    orders = with_reverses(torch.rand(2, 5, 4, generator=generator).argsort(dim=2))
    members = chains(orders)
    found, error = marginals(members, values[(members.long() << torch.arange(4)).sum(dim=2)])
    gains = torch.zeros(2, 10, 4, dtype=torch.float64)
    for row in range(2):
        for number, order in enumerate(orders[row].tolist()):
            for place, player in enumerate(order):
                before = sum(1 << other for other in order[:place])
                gains[row, number, player] = values[before | 1 << player] - values[before]
    of_pairs = gains.view(2, 5, 2, 4).mean(dim=2)
    torch.testing.assert_close(found, of_pairs.mean(dim=1), atol=1e-6, rtol=0)
    deviation = (of_pairs - of_pairs.mean(dim=1, keepdim=True)).pow(2).sum(dim=1).div(4).sqrt()
    torch.testing.assert_close(error, deviation / 5**0.5, atol=1e-6, rtol=0)


@pytest.mark.parametrize("budget", [1, 18, 19, 20, 39, 40, 41, 200])
def test_values_by_orders_sum_to_the_game_at_any_budget(budget):
    values = random_game(9, seed=3)
    credit = by_sampled_orders(values, budget)
    torch.testing.assert_close(credit.values[0].sum(), values[-1] - values[0], atol=1e-4, rtol=0)
    # One order and its reverse are the least.
    pairs = max(1, budget // 20)
    assert credit.coalitions == 20 * pairs
    assert float(credit.standard_error.max()) > 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("budget", [1, 20, 70])
def test_two_opposite_orders_are_exact_on_an_additive_game(budget, seed):
    weights = torch.linspace(-2, 3, 9)
    credit = by_sampled_orders(additive_game(weights, base=7.0), budget, seed)
    torch.testing.assert_close(credit.values[0], weights, atol=2e-5, rtol=0)


@pytest.mark.parametrize("seed", range(4))
def test_two_opposite_orders_are_exact_where_players_only_meet_in_twos(seed):
    # A player's gain from another is in one of an order and its reverse: the mean is half, which is exact.
    values = game_of(10, lambda inside: sum((i + 1) * (j - 4.5) for i in inside for j in inside if i < j))
    credit = by_sampled_orders(values, 22, seed)
    torch.testing.assert_close(credit.values[0].double(), by_subsets(values), atol=1e-3, rtol=0)


def test_values_by_orders_give_a_dummy_nothing_and_equals_alike_in_expectation():
    values = game_of(9, lambda inside: (len(inside & {0, 1, 2}) ** 2) * (1 + (4 in inside)) - 3 * (5 in inside))
    found = by_sampled_orders(values, 20, rows=400).values
    # Players 3, 6, 7 and 8 never change anything, whatever the orders.
    assert float(found[:, [3, 6, 7, 8]].abs().max()) < 1e-5
    for one, other in ((0, 1), (1, 2)):
        difference = found[:, one] - found[:, other]
        assert abs(float(difference.mean())) < 4 * float(difference.std()) / 20
    assert float((found[:, 0] - found[:, 1]).abs().max()) > 0.5


def test_values_by_orders_converge_to_the_exact_ones():
    values = random_game(9, seed=1)
    exact = by_subsets(values)
    few, many = (by_sampled_orders(values, budget, rows=60).values - exact for budget in (40, 480))
    # Twelve times the orders: the error falls by the root of twelve, 0.29.
    assert root_mean_square(many) < 0.35 * root_mean_square(few)
    deviation = many.std(dim=0) / 60**0.5
    assert float((many.mean(dim=0).abs() / deviation).max()) < 4


def test_standard_error_of_values_by_orders_is_honest():
    values = random_game(9, seed=2)
    credit = by_sampled_orders(values, 400, rows=300)
    error = (credit.values - by_subsets(values)).pow(2).mean(dim=0).sqrt()
    told = credit.standard_error.double().pow(2).mean(dim=0).sqrt()
    torch.testing.assert_close(told, error, rtol=0.2, atol=0)


def test_sampled_orders_are_drawn_anew_for_every_response():
    credit = by_sampled_orders(random_game(9, seed=2), 40, rows=3)
    assert float((credit.values[0] - credit.values[1]).abs().max()) > 1e-2
    assert float((credit.values[1] - credit.values[2]).abs().max()) > 1e-2
