import numpy as np
import pytest
import torch

from shaping import METHODS
from shaping.credit.lime import KERNEL_WIDTH, RIDGE, _plan
from shaping.scoring import Coalitions
from tests.tiny_models import GameRewardModel, additive_game, members_of_all, random_game


def by_least_squares(values: torch.Tensor) -> np.ndarray:
    """Return the coefficients by stacking intercept, kernel and ridge into one least-squares problem."""
    players = len(values).bit_length() - 1
    present = members_of_all(players).double().numpy()
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


@pytest.mark.parametrize("players", [1, 2, 4, 6])
def test_enumerated_coefficients_equal_ridge_regression_on_an_additive_game(players):
    values = additive_game(torch.linspace(-1, 2, players), base=3.0)
    found = METHODS["lime"].credit(GameRewardModel(values).batch()).values[0]
    np.testing.assert_allclose(found.numpy(), by_least_squares(values), atol=1e-5)


@pytest.mark.parametrize("players", [1, 2, 5, 7])
def test_enumerated_coefficients_equal_ridge_regression_on_a_random_game(players):
    values = random_game(players, seed=players)
    found = METHODS["lime"].credit(GameRewardModel(values).batch()).values[0]
    np.testing.assert_allclose(found.numpy(), by_least_squares(values), atol=1e-5)


def test_coefficients_keep_sign_and_order_of_an_additive_game():
    weights = torch.tensor([2.0, -1.0, 0.5, 0.0, 3.0])
    found = METHODS["lime"].credit(GameRewardModel(additive_game(weights)).batch()).values[0]
    assert torch.equal(found.argsort(), weights.argsort())
    assert found[1] < 0 < found[0]


def test_score_of_the_empty_response_does_not_move_the_coefficients():
    values = random_game(5, seed=1)
    one, other = (METHODS["lime"].credit(GameRewardModel(values + base).batch()).values for base in (0.0, 5.0))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_sampled_coefficients_find_the_valuable_token():
    weights = torch.zeros(14)
    weights[5] = 4.0
    credit = METHODS["lime"].credit(GameRewardModel(additive_game(weights)).batch(budget=200, rows=10))
    assert credit.values.argmax(dim=1).tolist() == [5] * 10
    assert float(credit.values[:, weights == 0].abs().max()) < 0.5


def test_samples_remove_every_number_of_units():
    # The score is the number of tokens present.
    counting = GameRewardModel(additive_game(torch.ones(14)))
    batch = counting.batch(budget=300)
    sizes = batch.play([Coalitions(torch.tensor([0]), _plan(batch, torch.tensor([0]), 14))]).values[0]
    assert set(sizes[0].tolist()) == set(range(15))
