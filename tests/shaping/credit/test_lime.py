import numpy as np
import pytest
import torch

from shaping import METHODS
from shaping.credit.lime import KERNEL_WIDTH, RIDGE, local_fit
from shaping.scoring import score_coalitions
from tests.support.games import game_of
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

METHOD = METHODS["lime"]


def by_least_squares(values: torch.Tensor, members: torch.Tensor | None = None) -> np.ndarray:
    """Return the coefficients by stacking intercept, kernel and ridge into one least-squares problem."""
    if members is None:
        members = members_of_all(len(values).bit_length() - 1)
    present, players = members.double().numpy(), members.shape[1]
    kernel = np.exp(-(((1 - present.mean(axis=1)) / KERNEL_WIDTH) ** 2))
    root = np.sqrt(kernel / kernel.sum())[:, None]
    design = np.vstack(
        [
            root * np.hstack([np.ones((len(present), 1)), present]),
            np.hstack([np.zeros((players, 1)), np.sqrt(RIDGE) * np.eye(players)]),
        ]
    )
    target = np.concatenate([root[:, 0] * values.double().numpy(), np.zeros(players)])
    return np.linalg.lstsq(design, target, rcond=None)[0][1:]


@pytest.mark.parametrize("players", [2, 4, 6])
def test_enumerated_coefficients_equal_ridge_regression_on_an_additive_game(players):
    values = additive_game(torch.linspace(-1, 2, players), base=3.0)
    found = METHOD.credit(GameRewardModel(values).batch()).values[0]
    np.testing.assert_allclose(found.numpy(), by_least_squares(values), atol=1e-5)


@pytest.mark.parametrize("players", [2, 5, 7, 10])
def test_enumerated_coefficients_equal_ridge_regression_on_a_random_game(players):
    values = random_game(players, seed=players)
    found = METHOD.credit(GameRewardModel(values).batch()).values[0]
    np.testing.assert_allclose(found.numpy(), by_least_squares(values), atol=1e-5)


def test_coefficients_of_a_tiny_transformer_equal_ridge_regression_on_plain_scores_of_masked_texts():
    prompt, response = [BOS, *encode("the film")], encode("good! a great cast.")[:6]

    def worth(inside: set[int]) -> float:
        kept = [token for place, token in enumerate(response) if place in inside]
        return plain_score(tiny_classifier(), prompt + kept)

    batch = scored_batch(tiny_reward_model(), make_rollouts([prompt], [response]))
    expected = by_least_squares(game_of(6, worth))
    np.testing.assert_allclose(METHOD.credit(batch).values[0].numpy(), expected, atol=1e-4)
    assert np.abs(expected).max() > 0.1


@pytest.mark.parametrize(("players", "budget", "seed"), [(9, 20, 0), (10, 64, 1), (14, 300, 2), (20, 5, 3)])
def test_sampled_coefficients_equal_ridge_regression_on_the_same_coalitions(players, budget, seed):
    batch = GameRewardModel(random_game(players, seed)).batch(budget, seed)
    (group,) = METHOD.plan(batch)
    (values,) = score_coalitions(batch.reward_model, batch.rollouts, [group]).values
    expected = by_least_squares(values[0], group.members[0])
    found = METHOD.credit(GameRewardModel(random_game(players, seed)).batch(budget, seed)).values[0]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_a_single_unit_takes_the_whole_difference():
    # With one unit there is nothing near the whole response, and a ridge would leave it next to nothing.
    found = METHOD.credit(GameRewardModel(torch.tensor([1.5, -2.0])).batch()).values
    torch.testing.assert_close(found, torch.tensor([[-3.5]]))
    members = torch.tensor([[True], [False], [True], [False]])
    values = torch.tensor([[1.0, 4.0, 3.0, 6.0], [0.0, 1.0, 0.0, 1.0]])
    torch.testing.assert_close(local_fit(members, values), torch.tensor([[-3.0], [-1.0]], dtype=torch.float64))


def test_coefficients_keep_sign_and_order_of_an_additive_game():
    weights = torch.tensor([2.0, -1.0, 0.5, 0.0, 3.0])
    found = METHOD.credit(GameRewardModel(additive_game(weights)).batch()).values[0]
    assert torch.equal(found.argsort(), weights.argsort())
    assert found[1] < 0 < found[0]


def test_score_of_the_empty_response_does_not_move_the_coefficients():
    values = random_game(5, seed=1)
    one, other = (METHOD.credit(GameRewardModel(values + base).batch()).values for base in (0.0, 5.0))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_coefficients_are_linear_in_the_game():
    one, other = random_game(6, seed=1), random_game(6, seed=2)
    first, second, both = (
        METHOD.credit(GameRewardModel(values).batch()).values for values in (one, other, one - 2 * other)
    )
    torch.testing.assert_close(both, first - 2 * second, atol=1e-5, rtol=0)


def test_coefficients_of_a_batch_are_those_of_each_response():
    members = members_of_all(4)
    games = torch.stack([random_game(4, seed) for seed in range(3)])
    together = local_fit(members, games)
    for row, values in enumerate(games):
        np.testing.assert_allclose(together[row].numpy(), by_least_squares(values), atol=1e-6)


def test_sampled_coefficients_find_the_valuable_token():
    weights = torch.zeros(14)
    weights[5] = 4.0
    for seed in range(10):
        found = METHOD.credit(GameRewardModel(additive_game(weights)).batch(200, seed)).values[0]
        assert int(found.argmax()) == 5
        assert float(found[weights == 0].abs().max()) < 0.5


def test_samples_are_the_whole_and_removals_of_every_number_of_units_equally_often():
    (group,) = METHOD.plan(GameRewardModel(random_game(10, seed=1)).batch(1001, estimator="kernel"))
    members = group.members[0]
    assert len(members) == 1001
    assert bool(members[0].all())
    removed = torch.bincount((~members[1:]).sum(dim=1), minlength=11)
    assert int(removed[0]) == 0
    # A tenth of 1000 draws each, give or take four standard errors.
    assert float((removed[1:] - 100).abs().max()) < 4 * 90**0.5
    # Which units are removed does not depend on their place: each is absent 5.5 times in 10.
    assert float(((~members[1:]).float().mean(dim=0) - 0.55).abs().max()) < 4 * (0.25 / 1000) ** 0.5


@pytest.mark.parametrize(("budget", "coalitions"), [(1, 3), (2, 3), (3, 3), (4, 4), (64, 64)])
def test_budget_counts_the_whole_response_too(budget, coalitions):
    credit = METHOD.credit(GameRewardModel(random_game(13, seed=1)).batch(budget))
    assert credit.coalitions == coalitions
    assert bool(torch.isfinite(credit.values).all())
    assert credit.standard_error is None
