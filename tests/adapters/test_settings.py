"""A shape is not used under settings that make it mean something else, and reward never goes astray."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from shaping import ConfigError, Shape, ShapeError
from shaping.adapters.conservation import check_rewards
from shaping.adapters.settings import TrainerSettings, check_settings

SHAPE = Shape(weights={"prefix": 1.0}, gae_lambda=0.7)
NAMES = {
    "estimator": "algorithm.adv_estimator",
    "gamma": "algorithm.gamma",
    "gae_lambda": "algorithm.lam",
    "whitens_rewards": "whiten_rewards",
    "kl_coef": "algorithm.kl_ctrl.kl_coef",
}
GOOD = TrainerSettings("verl", NAMES, "gae", 1.0, 0.7, kl_coef=0.05)


def test_settings_that_are_the_shapes_pass_in_silence() -> None:
    assert check_settings(SHAPE, GOOD) == check_settings(SHAPE, GOOD, 0.05) == []
    assert check_settings(SHAPE, replace(GOOD, gae_lambda=0.7 + 1e-12)) == []
    assert check_settings(SHAPE, replace(GOOD, kl_coef=None), 0.0) == []


@pytest.mark.parametrize(
    ("change", "said", "remedy"),
    [
        ({"estimator": "grpo"}, r"algorithm\.adv_estimator = grpo sums the token rewards.*would do nothing", "gae"),
        ({"estimator": "rloo"}, r"algorithm\.adv_estimator = rloo sums the token rewards", "with a critic"),
        ({"estimator": "magic"}, r"algorithm\.adv_estimator = magic is not the estimator", "gae"),
        (
            {"gamma": 0.99},
            r"algorithm\.gamma = 0\.99, .* discount 1: .*the best policy changes",
            r"algorithm\.gamma to 1",
        ),
        ({"gae_lambda": 1.0}, r"algorithm\.lam = 1, .* lambda 0\.7: .*does little", r"algorithm\.lam to 0\.7$"),
        (
            {"gae_lambda": 0.95},
            r"algorithm\.lam = 0\.95, .* lambda 0\.7: the best shape is another",
            "algorithm.lam to",
        ),
        ({"gae_lambda": float("nan")}, r"algorithm\.lam = nan", "algorithm.lam to"),
        ({"whitens_rewards": True}, "whiten_rewards normalises token rewards.*no longer sum", "whiten_rewards off"),
    ],
)
def test_a_setting_that_changes_what_a_shape_means_is_refused(change: dict, said: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=f"verl: .*{said}") as caught:
        check_settings(SHAPE, replace(GOOD, **change))
    assert re.search(remedy, caught.value.hint)


@pytest.mark.parametrize(("kl_coef", "said"), [(None, "takes no KL off the rewards"), (0.1, "has 0.1")])
def test_another_price_of_kl_is_warned_about(kl_coef: float | None, said: str) -> None:
    (warning,) = check_settings(SHAPE, replace(GOOD, kl_coef=kl_coef), 0.05)
    assert said in warning and "algorithm.kl_ctrl.kl_coef" in warning and "0.05" in warning


MASK = torch.tensor([[True, False, True], [True, True, False], [False, False, False]])
REWARDS = torch.tensor([[0.5, 0.0, 1.0], [2.0, -2.0, 0.0], [0.0, 0.0, 0.0]])
SCORES = torch.tensor([1.5, 0.0, 7.0])


def test_rewards_on_the_policys_tokens_that_sum_to_the_scores_pass() -> None:
    check_rewards(REWARDS, SCORES, MASK)
    check_rewards(REWARDS * 1000 + 1e-5 * MASK, SCORES * 1000, MASK)


@pytest.mark.parametrize(
    ("row", "place", "value", "said"),
    [
        (0, 1, 1e-9, "token 1 of response 0 has reward 1e-09, but the policy did not write it"),
        (1, 2, 1.0, "token 2 of response 1"),
        (2, 0, 7.0, "token 0 of response 2"),
        (1, 0, 2.5, r"the rewards of response 1 sum to 0\.5, not to its score 0"),
        (0, 0, float("nan"), r"the rewards of response 0 sum to nan, not to its score 1\.5"),
        (0, 2, float("inf"), "the rewards of response 0 sum to inf"),
    ],
)
def test_rewards_that_a_trainer_would_treat_in_its_own_way_are_refused(
    row: int, place: int, value: float, said: str
) -> None:
    rewards = REWARDS.clone()
    rewards[row, place] = value
    with pytest.raises(ShapeError, match=said):
        check_rewards(rewards, SCORES, MASK)
