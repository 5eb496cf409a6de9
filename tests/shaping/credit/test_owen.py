from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shaping import METHODS
from tests.support.games import by_hierarchy, by_orders, by_subsets, game_of, root_mean_square
from tests.support.models.tiny_models import (
    BOS,
    EOS,
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

METHOD = METHODS["owen"]
modest = settings(derandomize=True, deadline=None, max_examples=25)
seeds = st.integers(0, 10_000)
# Units of one to three players, six players at most.
structures = st.lists(st.integers(1, 3), min_size=1, max_size=4).map(
    lambda sizes: [unit for unit, size in enumerate(sizes) for _ in range(size)][:6]
)


def batch_of(values, structure, budget=64, seed=0, rows=1, **options):
    """Return the game with its players in the given units, one for each row where rows differ."""
    batch = GameRewardModel(values).batch(budget, seed, rows, **options)
    index = torch.tensor(structure)
    return replace(batch, unit_index=index.expand(rows, -1) if index.dim() == 1 else index)


def owen(values, structure, **options):
    return METHOD.credit(batch_of(values, structure, **options)).values[0]


def many_units(count=6):
    """Return twelve players in as many units of like size: too many coalitions to play all by default."""
    return [player * count // 12 for player in range(12)]


@pytest.mark.parametrize(
    "structure",
    [
        [0],
        [0, 0, 0],
        [0, 1, 2],
        [0, 0, 1],
        [0, 1, 1, 1],
        [0, 0, 1, 1, 2, 2],
        [0, 0, 0, 0, 1],
        [0, 0, 1, 2, 2, 2, 3],
        [-1, 0, 0, 1, -1, 1, -1],
        [0, -1, 0, -1, 1],
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_values_equal_mean_over_all_orders_that_keep_units_together(structure, seed):
    values = random_game(len(structure), seed)
    credit = METHOD.credit(batch_of(values, structure))
    torch.testing.assert_close(credit.values[0].double(), by_hierarchy(values, structure), atol=2e-5, rtol=0)
    assert credit.standard_error is None
    assert credit.unit == "token"


def test_values_of_a_tiny_transformer_equal_all_orders_over_plain_scores_of_masked_texts():
    prompt, response = [BOS, *encode("the film")], [*encode("good! a great cast.")[:7], EOS]
    batch = scored_batch(tiny_reward_model(), make_rollouts([prompt], [response]), "span", max_span=3)
    structure = batch.unit_index[0].tolist()
    assert structure[-1] == -1
    assert max(structure) >= 2

    def worth(inside: set[int]) -> float:
        kept = [token for place, token in enumerate(response) if place in inside]
        return plain_score(tiny_classifier(), prompt + kept)

    expected = by_hierarchy(game_of(len(response), worth), structure)
    found = METHOD.credit(batch).values[0].double()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert float(expected.abs().max()) > 0.1


def test_rows_of_different_structures_are_solved_side_by_side():
    values = random_game(6, seed=5)
    structures = [[0, 0, 0, 1, 1, 1], [0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 2, 2], [-1] * 6, [0, -1, 1, 1, -1, -1]]
    found = METHOD.credit(batch_of(values, structures, rows=5)).values.double()
    for row, structure in enumerate(structures):
        expected = by_hierarchy(values, structure) if max(structure) >= 0 else torch.zeros(6)
        torch.testing.assert_close(found[row], expected.double(), atol=2e-5, rtol=0)


@modest
@given(seed=seeds, structure=structures)
def test_tokens_of_a_unit_sum_to_the_shapley_value_of_the_unit(seed, structure):
    values = random_game(len(structure), seed)
    units = max(structure) + 1
    of_units = game_of(units, lambda inside: values[sum(1 << i for i, unit in enumerate(structure) if unit in inside)])
    totals = torch.zeros(units).index_add_(0, torch.tensor(structure), owen(values, structure))
    torch.testing.assert_close(totals.double(), by_orders(of_units), atol=2e-5, rtol=0)


@modest
@given(seed=seeds, players=st.integers(1, 8))
def test_units_of_one_token_give_shapley_values(seed, players):
    values = random_game(players, seed)
    torch.testing.assert_close(owen(values, list(range(players))).double(), by_subsets(values), atol=2e-5, rtol=0)


@modest
@given(seed=seeds, players=st.integers(1, 8))
def test_one_unit_gives_shapley_values_of_its_tokens(seed, players):
    values = random_game(players, seed)
    torch.testing.assert_close(owen(values, [0] * players).double(), by_subsets(values), atol=2e-5, rtol=0)


@modest
@given(seed=seeds, structure=structures)
def test_efficiency(seed, structure):
    values = random_game(len(structure), seed)
    torch.testing.assert_close(owen(values, structure).sum(), values[-1] - values[0], atol=1e-5, rtol=0)


@modest
@given(seed=seeds, structure=structures, place=st.integers(0, 5))
def test_player_that_adds_a_constant_gets_it(seed, structure, place):
    players = len(structure)
    dummy = place % players
    without = torch.arange(2**players) & ~(1 << dummy)
    values = random_game(players, seed)[without] + 2.5 * members_of_all(players)[:, dummy]
    assert float(owen(values, structure)[dummy]) == pytest.approx(2.5, abs=1e-5)


@modest
@given(seed=seeds, players=st.integers(3, 6))
def test_symmetric_players_of_one_unit_get_the_same(seed, players):
    structure = [0, 0, *range(1, players - 1)]
    numbers = torch.arange(2**players)
    swapped = (numbers & ~3) | (numbers & 1) << 1 | (numbers & 2) >> 1
    values = random_game(players, seed)
    found = owen(values + values[swapped], structure)
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=0)


@modest
@given(seed=seeds, units=st.integers(2, 3))
def test_symmetric_units_get_the_same(seed, units):
    # The game only knows how many players of each unit are there, and treats units alike.
    table = torch.randn(3, 3, 3, generator=torch.Generator().manual_seed(seed)).tolist()
    structure = [unit for unit in range(units) for _ in range(2)]

    def worth(inside: set[int]) -> float:
        counts = sorted([len(inside & {2 * unit, 2 * unit + 1}) for unit in range(units)] + [0] * (3 - units))
        return table[counts[0]][counts[1]][counts[2]]

    found = owen(game_of(2 * units, worth), structure)
    torch.testing.assert_close(found, found[:1].expand(2 * units), atol=1e-5, rtol=0)


@modest
@given(seed=seeds, structure=structures, factor=st.floats(-3, 3))
def test_additivity(seed, structure, factor):
    one, other = random_game(len(structure), seed), random_game(len(structure), seed + 1)
    together = owen(one + factor * other, structure)
    torch.testing.assert_close(together, owen(one, structure) + factor * owen(other, structure), atol=2e-5, rtol=0)


@pytest.mark.parametrize("structure", [list(range(8)), [0] * 8, [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 1, 1, 1, 1, 1, 2]])
@pytest.mark.parametrize("options", [{}, {"estimator": "permutation"}, {"estimator": "kernel"}, {"budget_tokens": 1}])
def test_eight_tokens_are_always_solved_exactly(structure, options):
    values = random_game(8, seed=2)
    credit = METHOD.credit(batch_of(values, structure, budget=1, **options))
    assert credit.standard_error is None
    assert credit.coalitions <= 256
    torch.testing.assert_close(credit.values[0].double(), by_hierarchy_or_subsets(values, structure), atol=2e-5, rtol=0)


def by_hierarchy_or_subsets(values, structure):
    """Return the oracle; a hierarchy of one level has too many orders."""
    return by_subsets(values) if max(structure) in (0, 7) else by_hierarchy(values, structure)


def test_every_coalition_is_played_once():
    structure = [0, 0, 1, 1, 1, 2]
    credit = METHOD.credit(batch_of(random_game(6, seed=1), structure))
    consistent = {
        coalition
        for coalition in range(64)
        if sum(0 < bin(coalition & mask).count("1") < bin(mask).count("1") for mask in (0b000011, 0b011100, 0b100000))
        <= 1
    }
    assert credit.coalitions == len(consistent)


@pytest.mark.parametrize(("budget", "exact"), [(448, True), (447, False), (64, False)])
def test_hierarchy_is_exact_where_all_its_coalitions_fit_the_budget(budget, exact):
    # 2^6 sets of whole units, and one part of two players beside 2^5 sets of the other units, six times.
    values = random_game(12, seed=3)
    credit = METHOD.credit(batch_of(values, many_units(), budget=budget))
    assert (credit.standard_error is None) == exact
    if exact:
        assert credit.coalitions == 448
        torch.testing.assert_close(credit.values[0].double(), by_hierarchy(values, many_units()), atol=2e-5, rtol=0)


def test_hierarchy_of_twelve_units_is_exact_on_request():
    values = random_game(12, seed=3)
    credit = METHOD.credit(batch_of(values, list(range(12)), budget=1, estimator="exact", max_units=12))
    torch.testing.assert_close(credit.values[0].double(), by_subsets(values), atol=2e-5, rtol=0)
    assert credit.coalitions == 4096


@pytest.mark.parametrize("budget", [1, 25, 26, 51, 52, 200])
def test_sampled_values_sum_to_the_game_at_any_budget(budget):
    values = random_game(12, seed=4)
    credit = METHOD.credit(batch_of(values, many_units(), budget=budget))
    torch.testing.assert_close(credit.values[0].sum(), values[-1] - values[0], atol=1e-4, rtol=0)
    assert credit.coalitions == 26 * max(1, budget // 26)


def test_sampled_values_of_an_additive_game_are_exact_whatever_the_sample():
    weights = torch.linspace(-1, 2, 12)
    for seed in range(3):
        found = owen(additive_game(weights, base=2.0), many_units(), budget=26, seed=seed)
        torch.testing.assert_close(found, weights, atol=2e-5, rtol=0)


def test_sampled_orders_keep_the_tokens_of_a_unit_together():
    structure = torch.tensor(many_units())
    (group,) = METHOD.plan(batch_of(random_game(12, seed=4), many_units(), budget=104, rows=20))
    members = group.members
    whole = torch.zeros(*members.shape[:2], 6).index_add_(2, structure, members.float())
    assert int((whole == 1).sum(dim=2).max()) == 1
    assert members.shape == (20, 104, 12)
    # Orders are many: of the twelve players each is first in some.
    assert bool(members[:, 1::13].any(dim=(0, 1)).all())


def test_sampled_values_converge_and_their_standard_error_is_honest():
    values, rows = random_game(12, seed=6), 300
    exact = by_hierarchy(values, many_units())
    few, many = (METHOD.credit(batch_of(values, many_units(), budget, rows=rows)) for budget in (52, 416))
    errors = [credit.values.double() - exact for credit in (few, many)]
    # Eight times the orders: the error falls by the root of eight, 0.35.
    assert root_mean_square(errors[1]) < 0.42 * root_mean_square(errors[0])
    assert float((errors[1].mean(dim=0).abs() / (errors[1].std(dim=0) / rows**0.5)).max()) < 4
    told = many.standard_error.double().pow(2).mean(dim=0).sqrt()
    torch.testing.assert_close(told, errors[1].pow(2).mean(dim=0).sqrt(), rtol=0.25, atol=0)


def test_error_of_an_exact_row_beside_a_sampled_one_is_zero():
    structures = [many_units(), [0, 0, 0, 1, 1, 1, 2, 2] + [-1] * 4]
    credit = METHOD.credit(batch_of(random_game(12, seed=6), structures, budget=78, rows=2))
    assert float(credit.standard_error[0].min()) > 0
    assert not credit.standard_error[1].any()


def test_sampled_row_never_claims_to_be_exact():
    # Twelve tokens have room for one order and its reverse, ten tokens for two.
    structures = [many_units(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, -1, -1]]
    credit = METHOD.credit(batch_of(random_game(12, seed=6), structures, budget=50, rows=2))
    # By chance a token may join the same others in both pairs of orders.
    assert int((credit.standard_error[1, :10] > 0).sum()) >= 9
    assert float(credit.standard_error[0].min()) > 0
