from functools import lru_cache

import numpy as np
import pytest
import torch

from shaping import METHODS
from shaping.credit.paired_sampling import shares
from shaping.scoring import score_coalitions
from tests.support.games import by_subsets, game_of, root_mean_square, structured_game
from tests.support.models.tiny_models import (
    BOS,
    GameRewardModel,
    additive_game,
    make_rollouts,
    random_game,
    scored_batch,
    tiny_reward_model,
)

METHOD = METHODS["kernel_shap"]
one_strength = pytest.mark.parametrize("strength", [1e-6, 0.03, 3.0])


def sampled(values, budget, seed=0, **options):
    return METHOD.credit(GameRewardModel(values).batch(budget, seed, estimator="kernel", **options))


def played(batch):
    """Return the planned coalitions of the first response and their values."""
    plan = METHOD.plan(batch)
    values = score_coalitions(batch.reward_model, batch.rollouts, plan).values
    return plan[0].members[0], values[0][0].double().numpy()


def by_lagrange(members, values, pairs, strength):
    """Return the constrained ridge over every inner coalition of the plan, solved with a multiplier, unpaired.

    Twice the multiplier's equations: the weighted least squares of the coalitions' own values, a ridge towards equal
    shares, and the sum.
    """
    units, none, everything = members.shape[1], values[0], values[1]
    inner, gain = members[2:].double().numpy(), everything - none
    mass = [(1 if 2 * s == units else 2) / (s * (units - s)) for s in range(1, units // 2 + 1)]
    share = shares(units, pairs)[0]
    size = np.minimum(inner.sum(axis=1), units - inner.sum(axis=1)).astype(int)
    weight = np.array([mass[s - 1] / share[s - 1] for s in size])
    weight /= weight.sum()
    centred = inner - inner.mean(axis=1, keepdims=True)
    spectrum = np.linalg.eigvalsh(centred.T @ (weight[:, None] * centred))
    ridge = strength * spectrum[spectrum > 1e-12 * spectrum.max()].mean()
    system = np.zeros((units + 1, units + 1))
    system[:units, :units] = inner.T @ (weight[:, None] * inner) + ridge * np.eye(units)
    system[units, :units] = system[:units, units] = 1
    right = inner.T @ (weight * (values[2:] - none)) + ridge * gain / units
    return np.linalg.solve(system, [*right, gain])[:units]


@one_strength
@pytest.mark.parametrize(("players", "budget"), [(9, 64), (10, 20), (12, 40), (12, 600)])
def test_sampled_values_equal_constrained_least_squares_on_the_same_coalitions(players, budget, strength, monkeypatch):
    monkeypatch.setattr("shaping.credit.ridge.STRENGTHS", (strength,))
    game = GameRewardModel(random_game(players, seed=players))
    members, values = played(game.batch(budget, seed=3, estimator="kernel"))
    pairs = (budget - 2) // 2
    # The ridge weakens as the sample nears all pairs there are.
    expected = by_lagrange(members, values, pairs, strength * (1 - pairs / (2 ** (players - 1) - 1)))
    found = METHOD.credit(game.batch(budget, seed=3, estimator="kernel")).values[0]
    # Fewer equations than unknowns leave the system to the ridge alone.
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-3 if strength < 1e-3 else 2e-5)


def test_plan_is_none_and_all_then_each_coalition_beside_its_complement():
    members, _ = played(GameRewardModel(random_game(10, seed=1)).batch(50, estimator="kernel"))
    assert len(members) == 50
    assert not members[0].any()
    assert bool(members[1].all())
    assert torch.equal(members[2::2], ~members[3::2])
    assert len(torch.unique(members.long(), dim=0)) == 50


@pytest.mark.parametrize("players", [9, 10, 13])
@pytest.mark.parametrize("budget", [1, 2, 3, 4, 5, 6, 9, 10, 17, 31, 64, 255])
def test_values_sum_to_the_game_at_any_budget(budget, players):
    values = random_game(players, seed=3)
    credit = sampled(values, budget)
    torch.testing.assert_close(credit.values[0].sum(), values[-1] - values[0], atol=1e-4, rtol=0)
    # None, all and one pair are the least.
    assert credit.coalitions == max(4, budget // 2 * 2)


@pytest.mark.parametrize("budget", [1, 2, 3, 4, 5, 8, 30])
def test_any_budget_gives_finite_values_and_errors_for_twenty_units(budget):
    credit = METHOD.credit(GameRewardModel(random_game(20, seed=1)).batch(budget))
    assert bool(torch.isfinite(credit.values).all())
    assert bool(torch.isfinite(credit.standard_error).all())
    assert float(credit.standard_error.min()) > 0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("players", "budget"), [(9, 64), (12, 64), (14, 100)])
def test_sample_is_exact_on_an_additive_game(players, budget, seed):
    weights = torch.linspace(-2, 3, players)
    found = sampled(additive_game(weights, base=7.0), budget, seed).values[0]
    torch.testing.assert_close(found, weights, atol=1e-4, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_sample_of_pairs_is_exact_where_players_only_meet_in_twos(seed):
    values = structured_game(10, seed=4)
    credit = sampled(values, 128, seed)
    torch.testing.assert_close(credit.values[0].double(), by_subsets(values), atol=1e-4, rtol=0)
    assert float(credit.standard_error.max()) < 1e-3


@pytest.mark.parametrize("budget", [4, 20, 64])
def test_constant_game_gives_nothing(budget):
    credit = sampled(torch.full((2**9,), 4.0), budget)
    assert not credit.values.any()
    assert not credit.standard_error.any()


def test_all_coalitions_are_played_as_soon_as_the_budget_allows_it():
    values = random_game(9, seed=6)
    for budget, complete in ((511, False), (512, True), (600, True)):
        credit = sampled(values, budget)
        assert (credit.standard_error is None) == complete
        if complete:
            torch.testing.assert_close(credit.values[0].double(), by_subsets(values), atol=2e-5, rtol=0)
            assert credit.coalitions == 512


def test_values_converge_to_the_exact_ones_over_seeds():
    values = structured_game(10, seed=1, noise=0.5)
    exact = by_subsets(values)
    few, many = (
        torch.stack([sampled(values, budget, seed).values[0] for seed in range(60)]) - exact for budget in (64, 400)
    )
    # Six times the pairs, at most the root of six times less error: 0.41.
    assert root_mean_square(many) < 0.41 * root_mean_square(few)
    deviation = many.std(dim=0) / 60**0.5
    assert float((many.mean(dim=0).abs() / deviation).max()) < 4


@pytest.mark.parametrize("budget", [48, 128])
def test_dummies_and_equals_are_treated_alike_in_expectation(budget):
    values = game_of(9, lambda inside: (len(inside & {0, 1, 2}) ** 2) * (1 + (4 in inside)) - 3 * (5 in inside))
    found = torch.stack([sampled(values, budget, seed).values[0] for seed in range(200)])
    deviation = found.std(dim=0)
    # A regression on a sample is biased, but far less than it is uncertain; four standard errors are 0.28 deviations.
    assert float((found[:, [3, 6, 7, 8]].mean(dim=0).abs() / deviation[[3, 6, 7, 8]]).max()) < 0.4
    for one, other in ((0, 1), (1, 2)):
        difference = found[:, one] - found[:, other]
        assert abs(float(difference.mean())) < 4 * float(difference.std()) / 200**0.5
        assert float(difference.std()) > 0.01


@pytest.mark.parametrize(
    ("players", "noise", "budget", "low", "high"),
    [
        # Sampled as usual, told within a third.
        (10, 0.3, 64, 0.66, 1.5),
        (10, 1.0, 128, 0.66, 1.5),
        (10, 1.0, 400, 0.66, 1.5),
        (12, 0.3, 256, 0.66, 1.5),
        # Four fifths of all coalitions: what was seen is no longer uncertain.
        (10, 1.0, 800, 0.66, 1.5),
        # Fewer pairs than units: nothing is known but the size of the values.
        (10, 0.3, 4, 0.4, 2.5),
        (10, 0.3, 6, 0.4, 2.5),
        (10, 1.0, 10, 0.4, 2.5),
        (10, 1.0, 24, 0.4, 2.5),
    ],
)
def test_standard_error_is_honest(players, noise, budget, low, high):
    errors, told = [], []
    for seed in range(40):
        values = structured_game(players, seed=seed % 4, noise=noise, pairs=0.3)
        credit = sampled(values, budget, seed)
        errors.append(credit.values[0] - exact_of(players, seed % 4, noise))
        told.append(credit.standard_error[0])
    ratio = root_mean_square(torch.stack(errors)) / root_mean_square(torch.stack(told))
    assert low < ratio < high


@pytest.mark.parametrize("budget", [16, 64, 256])
def test_standard_error_of_a_game_without_any_structure_is_right_within_a_factor(budget):
    # The ridge takes all for noise and gives equal shares; what it takes away is estimated only roughly.
    credits = [sampled(random_game(10, seed=7), budget, seed) for seed in range(40)]
    errors = torch.stack([credit.values[0] for credit in credits]) - by_subsets(random_game(10, seed=7))
    told = torch.stack([credit.standard_error[0] for credit in credits])
    assert 0.33 < root_mean_square(errors) / root_mean_square(told) < 3


@lru_cache
def exact_of(players, seed, noise):
    return by_subsets(structured_game(players, seed=seed, noise=noise, pairs=0.3))


def test_nearly_all_coalitions_give_nearly_exact_values():
    errors = [
        sampled(random_game(9, seed), 508, seed).values[0] - by_subsets(random_game(9, seed)) for seed in range(10)
    ]
    # Two of 255 pairs are missing. Of all values the spread is 0.33.
    assert root_mean_square(torch.stack(errors)) < 0.02


def test_errors_are_zero_on_padding_and_for_responses_that_are_exact():
    prompts, responses = [[BOS]] * 3, [list(range(30, 42)), list(range(30, 35)), []]
    batch = scored_batch(tiny_reward_model(), make_rollouts(prompts, responses), "token", 64)
    error = METHOD.credit(batch).standard_error
    assert float(error[0, :12].min()) > 0
    assert not error[1:].any()
    assert (
        METHOD.credit(scored_batch(tiny_reward_model(), make_rollouts(prompts, [[40], [], [41]]))).standard_error
        is None
    )


def test_strength_alone_connects_the_responses_of_a_batch(monkeypatch):
    responses = [list(range(first, first + 10)) for first in (20, 60, 100)]
    together = METHOD.credit(scored_batch(tiny_reward_model(), make_rollouts([[BOS]] * 3, responses), budget=64))
    assert float((together.values[0] - together.values[1]).abs().max()) > 0.1
    monkeypatch.setattr("shaping.credit.ridge.STRENGTHS", (0.01,))
    together = METHOD.credit(scored_batch(tiny_reward_model(), make_rollouts([[BOS]] * 3, responses), budget=64))
    for row, response in enumerate(responses):
        alone = METHOD.credit(scored_batch(tiny_reward_model(), make_rollouts([[BOS]], [response]), budget=64))
        torch.testing.assert_close(together.values[row], alone.values[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(together.standard_error[row], alone.standard_error[0], atol=1e-4, rtol=0)
