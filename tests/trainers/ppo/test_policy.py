"""Adapters: what is trained, what is shared, what is saved."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.trainers.ppo.actor import Actor
from pipeline.trainers.ppo.critics import ValueHead
from pipeline.trainers.ppo.policy import TrainedPolicy
from pipeline.trainers.ppo.settings import LoraSettings, PPOSettings
from pipeline.trainers.ppo.update import Batch, PolicyUpdate
from shaping.errors import ConfigError
from tests.support.models.tiny_models import BOS, make_rollouts, tiny_policy
from tests.support.models.tiny_policies import policy_of

LORA = LoraSettings(rank=2, alpha=4)


def rollouts():
    return make_rollouts([[BOS, 9, 11]] * 3, [[5, 6, 7, 8], [9, 10], [11, 12, 13]])


def trained(source, lora):
    """Return a policy after two optimizer steps on rewards that favour the first response."""
    torch.manual_seed(0)
    policy = TrainedPolicy.of(source, lora)
    actor = Actor(policy.model, ValueHead(16), None)
    old = actor.observe(rollouts(), None)
    advantages = torch.tensor([[1.0], [-1.0], [0.5]]) * rollouts().response_mask
    update = PolicyUpdate(actor, PPOSettings(steps=2, batch_size=3, learning_rate=1e-2))
    update(0, Batch(rollouts(), old, advantages, advantages), [torch.arange(3)] * 2)
    return policy, actor


def log_probs(policy):
    return Actor(policy, None, None).observe(rollouts(), None).log_probs


@pytest.mark.parametrize("lora", [None, LORA])
def test_training_moves_the_policy_and_leaves_its_source_alone(lora):
    source = tiny_policy()
    before = {name: weight.clone() for name, weight in source.state_dict().items()}
    start = log_probs(source)
    torch.testing.assert_close(log_probs(TrainedPolicy.of(source, lora).model), start, atol=1e-6, rtol=0)
    policy, _ = trained(source, lora)
    assert float((log_probs(policy.model) - start).abs().max()) > 1e-3
    assert torch.equal(log_probs(source), start)
    assert all(torch.equal(weight, before[name]) for name, weight in source.state_dict().items())


@pytest.mark.parametrize("name", ["Llama", "GPT2", "Qwen3"])
def test_adapter_shares_the_weights_of_its_source_and_trains_nothing_else(name):
    source = policy_of(name)
    places = {weight.data_ptr() for weight in source.parameters()}
    policy = TrainedPolicy.of(source, LORA)
    parameters = dict(policy.model.named_parameters())
    own = {each for each, weight in parameters.items() if weight.data_ptr() not in places}
    assert own == {each for each, weight in parameters.items() if weight.requires_grad}
    assert own and all("lora_" in each for each in own)
    assert sum(parameters[each].numel() for each in own) < 0.5 * sum(weight.numel() for weight in source.parameters())


def test_copy_shares_nothing_even_of_a_source_that_an_adapter_froze():
    source = tiny_policy()
    TrainedPolicy.of(source, LORA)
    policy = TrainedPolicy.of(source, None)
    places = {weight.data_ptr() for weight in source.parameters()}
    assert all(weight.requires_grad and weight.data_ptr() not in places for weight in policy.model.parameters())


@pytest.mark.parametrize("lora", [None, LORA])
def test_saved_policy_says_what_the_trained_one_says(lora, tmp_path):
    source = tiny_policy()
    start = log_probs(source)
    policy, _ = trained(source, lora)
    expected = log_probs(policy.model)
    policy.save(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(log_probs(loaded), expected, atol=1e-5, rtol=0)
    # Merging must not have written into the weights that both share.
    assert torch.equal(log_probs(source), start) and torch.equal(log_probs(policy.model), expected)
    assert not list(tmp_path.rglob("*.bin"))


def test_saved_adapter_can_be_put_on_the_source_again(tmp_path):
    from peft import PeftModel

    source = tiny_policy()
    policy, _ = trained(source, LORA)
    policy.save(tmp_path)
    again = PeftModel.from_pretrained(copy.deepcopy(source), tmp_path / "adapter").get_base_model()
    torch.testing.assert_close(log_probs(again), log_probs(policy.model), atol=1e-6, rtol=0)


def test_module_that_the_policy_lacks_is_refused():
    with pytest.raises(ConfigError, match=r"target_modules = .*nowhere") as refusal:
        TrainedPolicy.of(tiny_policy(), LoraSettings(target_modules=("nowhere",)))
    assert refusal.value.hint
