import pytest
import torch

from pipeline.trainers.ppo.health import check_responses, check_reward_scale
from pipeline.trainers.ppo.settings import PPOSettings
from shaping.errors import TrialFailed
from tests.support.models.tiny_models import BOS, EOS, make_rollouts

SETTINGS = PPOSettings(kl_limit_nats=5.0, collapse_share=0.8, collapse_tokens=10)


def rollouts(*responses):
    return make_rollouts([[BOS]] * len(responses), [list(response) for response in responses])


def reason_of(*responses, settings=SETTINGS):
    try:
        check_responses(3, rollouts(*responses), EOS, settings)
    except TrialFailed as failure:
        assert "step 3" in failure.detail and failure.hint
        return failure.reason
    return None


def test_one_token_said_over_and_over_is_a_collapse():
    assert reason_of([7] * 9, [7, 7, 7, 8]) == "collapse"
    assert reason_of([7] * 5, [8] * 5) is None
    # Eight of ten is not beyond the share.
    assert reason_of([7] * 8, [8, 9]) is None
    assert reason_of([7] * 9, [8]) == "collapse"


def test_end_of_sequence_is_no_token_said():
    assert reason_of([7, 8, 9, 10, 11, EOS], [12, 13, 14, 15, 16, EOS], *[[EOS]] * 200) is None


def test_small_batches_and_a_share_of_one_are_never_a_collapse():
    assert reason_of([7] * 9) is None
    assert reason_of([7] * 90, settings=PPOSettings(collapse_share=1.0)) is None


@pytest.mark.parametrize("responses", [[[EOS], [EOS]], [[], [EOS]], [[]]])
def test_responses_without_any_token_end_the_trial(responses):
    assert reason_of(*responses) == "empty_responses"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_rewards_and_kl_that_are_not_finite_end_the_trial(value):
    fine = torch.zeros(2, 3)
    for rewards, kl_nats in ((torch.tensor([[0.0, value]]), 0.0), (fine, value)):
        with pytest.raises(TrialFailed) as failure:
            check_reward_scale(1, rewards, kl_nats, SETTINGS)
        assert failure.value.reason == "nan"


@pytest.mark.parametrize("kl_nats", [5.1, -5.1])
def test_kl_beyond_its_limit_on_either_side_ends_the_trial(kl_nats):
    with pytest.raises(TrialFailed, match="kl_limit_nats = 5") as failure:
        check_reward_scale(1, torch.zeros(2, 3), kl_nats, SETTINGS)
    assert failure.value.reason == "kl_limit"
    check_reward_scale(1, torch.zeros(2, 3), 4.9 if kl_nats > 0 else -4.9, SETTINGS)
