import pytest
import torch

from pipeline.ppo.actor import Actor, RewardCritic, ValueHead
from tests.tiny_models import (
    EOS,
    SCORE_DEVIATION,
    SCORE_MEAN,
    mixed_rollouts,
    real_ids,
    tiny_classifier,
    tiny_policy,
    tiny_reward_model,
)


def log_distribution(policy, rollouts, row, banned, temperature):
    """Return Hugging Face's log-distribution before each token of one response, without padding: ``t x V``."""
    prompt, response = real_ids(rollouts, row)
    with torch.no_grad():
        logits = policy(input_ids=torch.tensor([prompt + response])).logits[0] / temperature
    if banned is not None:
        logits[:, banned] = -torch.inf
    return logits[len(prompt) - 1 : -1].log_softmax(dim=-1), response


@pytest.mark.parametrize(("banned", "temperature"), [(None, 1.0), (EOS, 1.0), (EOS, 0.7), (None, 1.6)])
def test_log_probs_and_entropy_equal_hugging_face_one_sequence_at_a_time(banned, temperature):
    rollouts, policy = mixed_rollouts(), tiny_policy()
    outputs = Actor(policy, None, banned, temperature)(rollouts)
    for row in range(len(rollouts)):
        expected, response = log_distribution(policy, rollouts, row, banned, temperature)
        for position, token in enumerate(response):
            probability = expected[position].exp()
            entropy = -float(torch.special.xlogy(probability, probability).sum())
            assert float(outputs.entropy[row, position]) == pytest.approx(entropy, abs=1e-4)
            if token != banned:
                found = float(outputs.log_probs[row, position].detach())
                assert found == pytest.approx(float(expected[position, token]), abs=1e-5)


def test_banned_token_has_no_probability():
    rollouts = mixed_rollouts()
    outputs = Actor(tiny_policy(), None, EOS)(rollouts)
    banned = (rollouts.response_ids == EOS) & rollouts.response_mask
    assert int(banned.sum()) == 3
    assert not outputs.log_probs[banned].exp().any()


def test_gradient_is_finite_and_reaches_the_policy_though_a_token_is_banned():
    rollouts, policy = mixed_rollouts().select(torch.tensor([1, 3, 6])), tiny_policy()
    outputs = Actor(policy, None, EOS)(rollouts)
    (outputs.log_probs * rollouts.response_mask).sum().backward()
    gradients = [parameter.grad for parameter in policy.parameters()]
    assert all(gradient is not None and bool(torch.isfinite(gradient).all()) for gradient in gradients)
    assert float(policy.model.layers[0].mlp.up_proj.weight.grad.abs().max()) > 0


def test_gradient_equals_finite_differences():
    rollouts, policy = mixed_rollouts().select(torch.tensor([3])), tiny_policy().double()
    actor, weight = Actor(policy, None, None, 0.8), policy.model.norm.weight
    actor(rollouts).log_probs.sum().backward()
    moved = []
    for step in (1e-2, -1e-2):
        with torch.no_grad():
            weight[0] += step
            moved.append(float(actor(rollouts).log_probs.double().sum()))
            weight[0] -= step
    assert float(weight.grad[0]) == pytest.approx((moved[0] - moved[1]) / 2e-2, rel=1e-2)


def test_value_head_starts_at_zero_and_reads_the_state_before_each_token():
    rollouts, policy = mixed_rollouts(), tiny_policy()
    head = ValueHead(16)
    assert not Actor(policy, head, None)(rollouts).values.any()
    torch.nn.init.normal_(head.linear.weight, generator=torch.Generator().manual_seed(0))
    torch.nn.init.constant_(head.linear.bias, 0.5)
    values = Actor(policy, head, None)(rollouts).values.detach()
    for row in range(len(rollouts)):
        prompt, response = real_ids(rollouts, row)
        with torch.no_grad():
            hidden = policy.model(input_ids=torch.tensor([prompt + response])).last_hidden_state[0]
            expected = (hidden @ head.linear.weight[0] + 0.5)[len(prompt) - 1 : -1]
        torch.testing.assert_close(values[row, : len(response)], expected, atol=1e-4, rtol=0)


def test_reward_critic_starts_as_the_score_of_each_prefix():
    rollouts = mixed_rollouts()
    critic = RewardCritic(tiny_classifier(), SCORE_MEAN, SCORE_DEVIATION)
    values = Actor(tiny_policy(), critic, None)(rollouts).values.detach()
    expected = tiny_reward_model().prefix_scores(rollouts)[:, :-1]
    mask = rollouts.response_mask
    torch.testing.assert_close(values[mask], expected[mask], atol=1e-5, rtol=0)


def test_reference_policy_has_no_values():
    assert not Actor(tiny_policy(), None, None)(mixed_rollouts()).values.any()
