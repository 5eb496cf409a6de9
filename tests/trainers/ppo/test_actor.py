import pytest
import torch

from pipeline.trainers.ppo.actor import Actor, micro_batches
from pipeline.trainers.ppo.critics import NetworkCritic, RewardCritic, ValueHead
from pipeline.trainers.ppo.rollout import sample_responses
from tests.support.models.tiny_models import (
    BOS,
    EOS,
    SCORE_DEVIATION,
    SCORE_MEAN,
    make_rollouts,
    mixed_rollouts,
    real_ids,
    tiny_classifier,
    tiny_policy,
    tiny_reward_model,
)
from tests.support.models.tiny_policies import policy_of


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
    outputs = Actor(policy, None, banned, temperature)(rollouts, with_entropy=True)
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


@pytest.mark.parametrize("size", [1, 3, 100, None])
def test_observing_in_micro_batches_equals_one_forward_pass(size):
    rollouts = mixed_rollouts()
    actor = Actor(tiny_policy(), RewardCritic(tiny_classifier(), SCORE_MEAN, SCORE_DEVIATION), None)
    whole, cut = actor(rollouts, with_entropy=True), actor.observe(rollouts, size, with_entropy=True)
    for name in ("log_probs", "values", "entropy"):
        expected = getattr(whole, name).detach()
        assert not expected[~rollouts.response_mask].any()
        torch.testing.assert_close(getattr(cut, name), expected, atol=1e-5, rtol=0)
        assert not getattr(cut, name).requires_grad


def test_micro_batches_hold_responses_of_like_length_and_every_row_once():
    lengths = torch.tensor([9, 1, 5, 2, 7, 3])
    parts = micro_batches(lengths, torch.tensor([5, 4, 2, 1, 0]), 2)
    assert [lengths[part].tolist() for part in parts] == [[1, 3], [5, 7], [9]]
    assert [part.tolist() for part in micro_batches(lengths, None, None)] == [[0, 1, 2, 3, 4, 5]]


def test_network_critic_starts_at_zero_and_learns_without_touching_the_policy():
    rollouts, policy = mixed_rollouts(), tiny_policy()
    actor = Actor(policy, NetworkCritic(policy), None)
    assert not actor(rollouts).values.any()
    torch.nn.init.normal_(actor.critic.head.linear.weight, generator=torch.Generator().manual_seed(0))
    (actor(rollouts).values ** 2).sum().backward()
    assert all(parameter.grad is None for parameter in policy.parameters())
    assert float(actor.critic.trunk.layers[0].mlp.up_proj.weight.grad.abs().max()) > 0
    rows = torch.tensor([3])
    before = policy.model(input_ids=rollouts.select(rows).sequences()[0]).last_hidden_state
    expected = before @ actor.critic.head.linear.weight[0]
    prompt = rollouts.prompt_ids.shape[1]
    alone = rollouts.select(rows)
    tokens = int(alone.response_tokens)
    if bool(alone.prompt_mask.all()):
        torch.testing.assert_close(
            actor(alone).values[0, :tokens], expected[0, prompt - 1 : prompt - 1 + tokens], atol=1e-5, rtol=0
        )


def gradients(name, recomputed):
    policy = policy_of(name)
    rollouts = make_rollouts([[BOS, 5, 6]] * 3, [[7, 8, 9, 10], [11, 12], [13]])
    torch.manual_seed(0)
    critic = NetworkCritic(policy)
    torch.nn.init.normal_(critic.head.linear.weight)
    actor = Actor(policy, critic, None)
    if recomputed:
        actor.recompute_layers()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each.numel()) or each, lambda each: each):
        outputs = actor(rollouts)
    (outputs.log_probs.sum() + (outputs.values**2).sum()).backward()
    return {each: parameter.grad for each, parameter in actor.named_parameters()}, sum(kept)


@pytest.mark.parametrize("name", ["Llama", "GPT2", "GPTNeoX", "OPT", "Qwen3"])
def test_recomputing_layers_keeps_less_and_changes_no_gradient(name):
    plain, plain_kept = gradients(name, recomputed=False)
    again, again_kept = gradients(name, recomputed=True)
    # Families with dropout (GPT-2, OPT: 0.1) would differ if recomputation switched it on.
    for each, gradient in plain.items():
        if gradient is not None:
            torch.testing.assert_close(again[each], gradient, atol=1e-5, rtol=1e-5)
    assert again_kept < 0.7 * plain_kept


def test_policy_that_recomputes_still_samples_with_its_cache():
    policy = tiny_policy()
    actor = Actor(policy, None, None)
    prompts = torch.tensor([[BOS, 5], [BOS, 9]])
    given = (prompts, torch.ones_like(prompts).bool(), torch.rand(6, 2, generator=torch.Generator().manual_seed(0)))
    before = sample_responses(policy, *given, EOS, stop_at_eos=False)
    actor.recompute_layers()
    after = sample_responses(policy, *given, EOS, stop_at_eos=False)
    assert torch.equal(before.rollouts.response_ids, after.rollouts.response_ids)


def test_half_precision_stays_near_and_gives_float32_gradients():
    rollouts, policy = mixed_rollouts(), tiny_policy()
    exact = Actor(policy, None, None)(rollouts).log_probs.detach()
    half = Actor(policy, None, None, autocast=torch.bfloat16)
    outputs = half(rollouts)
    difference = (outputs.log_probs.detach() - exact).abs().max()
    # It rounds, so it is not the same; eight bits are right to a few per cent of the largest of these numbers.
    assert 1e-4 < float(difference) < 0.05 * float(exact.abs().max())
    assert outputs.log_probs.dtype == torch.float32
    outputs.log_probs.sum().backward()
    assert policy.lm_head.weight.grad.dtype == torch.float32
