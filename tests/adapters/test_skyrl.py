"""SkyRL's own reward and advantage code, on CPU, with the adapter's trainer in the place of its own."""

from __future__ import annotations

import math

import pytest
import torch

from shaping import Shape
from tests.adapters.conversations import (
    DISCOUNTED,
    MASKED,
    SHAPE,
    TOOL_LAST,
    Conversations,
    conversations,
    make_shaper,
)
from tests.adapters.environments import answer_of
from tests.adapters.exports import KL_COEF
from tests.adapters.hand_gae import hand_gae, hand_whitened

# Installs SkyRL into an environment of its own.
pytestmark = pytest.mark.slow

GIVEN = conversations()
ROWS = range(len(GIVEN.responses))
SUMMING = ("grpo", "rloo", "maxrl")


@pytest.fixture(scope="module")
def answer() -> dict:
    return answer_of("skyrl", "skyrl_rewards.py")


def tail(matrix: list[list[float]], given: Conversations = GIVEN) -> list[list[float]]:
    """Return each response's places of a tensor of SkyRL's: the last ones."""
    return [row[len(row) - len(ids) :] for row, ids in zip(matrix, given.responses, strict=False)]


def rewards_by_hand(shape: Shape, given: Conversations = GIVEN) -> list[list[float]]:
    """Return what the shape gives each token; the response of which nothing is trained has its score on its last."""
    shaper = make_shaper(shape)
    found = shaper(given.rollouts(), torch.tensor(given.scores)).tolist()
    rows = [row[: len(ids)] for row, ids in zip(found, given.responses, strict=True)]
    for place, mask in enumerate(given.written):
        if not any(mask):
            rows[place] = [0.0] * (len(mask) - 1) + [given.scores[place]]
    return rows


def close(found: list[list[float]], wanted: list[list[float]]) -> bool:
    return len(found) == len(wanted) and all(
        row == pytest.approx(other, abs=2e-5) for row, other in zip(found, wanted, strict=True)
    )


@pytest.mark.parametrize(
    ("case", "shape"),
    [("dense", SHAPE), ("discounted", DISCOUNTED), ("dense lambda 1", SHAPE.with_changes(gae_lambda=1.0))],
)
def test_returns_are_the_hand_worked_ones_of_the_shapes_token_rewards(answer, case, shape):
    found = answer[case]
    rewards = rewards_by_hand(shape)
    assert close(found["rewards"], rewards)
    by_hand = [
        hand_gae(reward, value, shape.gamma, shape.gae_lambda)
        for reward, value in zip(rewards, tail(found["values"]), strict=True)
    ]
    assert close(tail(found["returns"]), [returns for _, returns in by_hand])


def test_advantages_are_the_whitened_hand_worked_ones(answer):
    found = answer["dense"]
    masks = found["response_mask"]
    # SkyRL fills the batch up with copies of the first row, which are whitened with the rest.
    filled = len(masks) - len(GIVEN.responses)
    assert filled == 2
    rewards = rewards_by_hand(SHAPE)
    values = tail(found["values"])
    extra = [row[-len(GIVEN.responses[0]) :] for row in found["values"][len(GIVEN.responses) :]]
    advantages = [
        hand_gae(reward, value, 1.0, SHAPE.gae_lambda)[0]
        for reward, value in zip([*rewards, *[rewards[0]] * filled], [*values, *extra], strict=True)
    ]
    assert close(tail(found["advantages"]), hand_whitened(advantages)[: len(GIVEN.responses)])


def test_rewards_sum_to_the_scores_and_none_stands_on_what_tools_answered(answer):
    for place, row in enumerate(answer["dense"]["rewards"]):
        assert len(row) == len(GIVEN.responses[place])
        assert math.fsum(row) == pytest.approx(GIVEN.scores[place], abs=1e-5)
        if place != MASKED:
            assert all(reward == 0 for reward, mine in zip(row, GIVEN.written[place], strict=True) if not mine)
            assert any(reward != 0 for reward in row)


def test_response_of_which_nothing_is_trained_keeps_its_reward(answer):
    assert answer["dense"]["rewards"][MASKED] == answer["plain"]["rewards"][MASKED]


def test_sparse_shape_changes_nothing_where_the_last_token_is_the_policys(answer):
    assert answer["sparse kept"] == answer["plain kept"]
    same = [place for place in ROWS if place != TOOL_LAST]
    for name in ("rewards", "returns"):
        assert [answer["sparse"][name][place] for place in same] == [answer["plain"][name][place] for place in same]


def test_sparse_shape_pays_the_policys_last_token_rather_than_the_tools(answer):
    row = answer["sparse"]["rewards"][TOOL_LAST]
    last = max(place for place, mine in enumerate(GIVEN.written[TOOL_LAST]) if mine)
    assert [place for place, reward in enumerate(row) if reward] == [last]


def test_without_discount_the_first_return_is_the_same_and_later_ones_are_not(answer):
    scalar, dense = tail(answer["plain lambda 1"]["returns"]), tail(answer["dense lambda 1"]["returns"])
    for place in ROWS:
        assert dense[place][0] == pytest.approx(scalar[place][0], abs=1e-4)
    for place in (0, 1, 3):
        assert dense[place][1:-1] != pytest.approx(scalar[place][1:-1], abs=1e-2)


def test_kl_penalty_is_charged_on_top_of_dense_rewards(answer):
    found, coefficient = answer["kl"], 0.1
    rewards = rewards_by_hand(SHAPE)
    policy, reference = tail(found["action_log_probs"]), tail(found["base_action_log_probs"])
    for place in ROWS:
        charged = []
        for token, reward in enumerate(rewards[place]):
            ratio = reference[place][token] - policy[place][token]
            # SkyRL's k3, clamped at 10.
            kl = min(math.exp(ratio) - ratio - 1, 10.0)
            charged.append(reward - coefficient * kl * GIVEN.written[place][token])
        wanted = hand_gae(charged, tail(found["values"])[place], 1.0, SHAPE.gae_lambda)[1]
        assert tail(found["returns"])[place] == pytest.approx(wanted, abs=2e-5)


def test_rewards_of_turns_are_summed_and_shaped_as_one_score(answer):
    scores = [score + 0.5 for score in GIVEN.scores]
    turns = Conversations(GIVEN.prompts, GIVEN.responses, GIVEN.written, scores, GIVEN.uids)
    wanted = rewards_by_hand(SHAPE, turns)
    for place in ROWS:
        if place != MASKED:
            assert answer["turns"]["rewards"][place] == pytest.approx(wanted[place], abs=2e-5)
    assert answer["turns"]["rewards"][MASKED] == answer["plain turns"]["rewards"][MASKED]


def reward_metrics(found: dict) -> dict:
    return {name: value for name, value in found["metrics"].items() if name.startswith("reward/")}


@pytest.mark.parametrize("case", ["", " turns", " filtered"])
def test_pass_at_n_and_mean_reward_see_the_rewards_as_they_were(answer, case):
    plain, dense = answer[f"plain{case}"], answer["turns" if case == " turns" else f"dense{case}"]
    assert reward_metrics(dense) == reward_metrics(plain)
    assert reward_metrics(plain)["reward/avg_pass_at_2"] > 0


def test_filter_of_prompts_without_variance_sees_the_scores_and_its_responses_are_shaped(answer):
    plain, dense = answer["plain filtered"], answer["dense filtered"]
    assert dense["metrics"]["reward/num_zero_variance_filtered"] == 1
    assert dense["loss_mask"] == plain["loss_mask"]
    assert not any(any(row) for row in dense["loss_mask"][:2])
    for row in dense["rewards"][:2]:
        assert math.fsum(row) == pytest.approx(1.0, abs=1e-5)
        assert sum(reward != 0 for reward in row) > 1


def test_asynchronous_trainers_metrics_of_other_responses_are_passed_on(answer):
    asynchronous = answer["asynchronous"]
    assert asynchronous["rewards"] == answer["dense"]["rewards"]
    assert reward_metrics(asynchronous) != reward_metrics(answer["dense"])


@pytest.mark.parametrize("name", SUMMING)
def test_estimators_that_sum_token_rewards_would_lose_the_shape_and_are_refused(answer, name):
    for place in ROWS:
        plain, dense = (tail(answer[f"{kind} {name}"]["advantages"])[place] for kind in ("plain", "dense"))
        assert dense == pytest.approx(plain, rel=1e-3, abs=1e-4)
    assert f"trainer.algorithm.advantage_estimator = {name} sums the token rewards" in answer["refused"][name]


def test_estimator_without_a_critic_and_lambda_is_refused(answer):
    assert "trainer.algorithm.advantage_estimator = reinforce++" in answer["refused"]["reinforce++"]
    assert answer["refused"]["gae"] is None


def test_other_gamma_other_lambda_and_steps_are_refused(answer):
    assert "trainer.algorithm.gamma = 0.99" in answer["other gamma"]
    assert "trainer.algorithm.lambd = 0.95" in answer["other lambda"]
    assert "generator.step_wise_trajectories" in answer["step-wise"] and "lost" in answer["step-wise"]


def test_reward_on_a_tools_answer_and_another_total_are_refused(answer):
    assert "the policy did not write it" in answer["astray"]
    assert "not to its score" in answer["more"]


def test_where_kl_is_charged_is_warned_about(answer):
    said = answer["warnings"]
    assert said["KL in reward"] == []
    assert "charged in the loss" in said["KL in loss"][0]
    assert "charged nowhere" in said["no KL"][0]
    assert "the price of KL moves" in said["adaptive"][0]
    assert "trainer.algorithm.kl_loss_coef has 0.001" in said["other price"][0]
    assert said["free KL"] == []


def test_exported_script_asks_for_the_studys_settings_and_shapes(answer):
    found = answer["exported"]
    assert found["settings"] == {
        "advantage_estimator": "gae",
        "gamma": SHAPE.gamma,
        "lambd": SHAPE.gae_lambda,
        "use_kl_in_reward": True,
        "use_kl_loss": False,
        "kl_loss_coef": KL_COEF,
        "kl_estimator_type": "k3",
        # What a user says after it wins, and is then checked.
        "overridden": 1.0,
    }
    assert close(found["rewards"], rewards_by_hand(SHAPE))
