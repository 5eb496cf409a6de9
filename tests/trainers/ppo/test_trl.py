"""One update against TRL 1.12's trainer, recorded by ``tests/fixtures/record_trl_ppo.py``."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from pipeline.trainers.ppo.actor import Actor
from pipeline.trainers.ppo.critics import RewardCritic
from pipeline.trainers.ppo.losses import kl_estimate, whiten
from pipeline.trainers.ppo.settings import PPOSettings
from pipeline.trainers.ppo.update import Batch, PolicyUpdate
from shaping.advantages import generalized_advantages
from shaping.rollouts import Rollouts, place_on_last_token

FIXTURE = Path(__file__).parents[2] / "fixtures" / "trl_ppo.safetensors"
AGREES = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(scope="module")
def recorded():
    with safe_open(FIXTURE, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["settings"])


def model_of(kind, tensors, prefix, **changes):
    weights = {
        name.removeprefix(f"{prefix}."): value for name, value in tensors.items() if name.startswith(f"{prefix}.")
    }
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vocabulary = weights["model.embed_tokens.weight"].shape[0]
    model = kind(LlamaConfig(vocab_size=vocabulary, tie_word_embeddings=False, pad_token_id=0, **sizes, **changes))
    model.load_state_dict(weights)
    return model.eval()


def actor_of(recorded):
    tensors, _ = recorded
    value = model_of(LlamaForSequenceClassification, tensors, "value", num_labels=1)
    return Actor(model_of(LlamaForCausalLM, tensors, "policy"), RewardCritic(value, 0.0, 1.0), None)


def rollouts_of(recorded):
    tensors, settings = recorded
    prompts, responses = tensors["query_responses"].tensor_split([settings["prompt_tokens"]], dim=1)
    return Rollouts(prompts, torch.ones_like(prompts).bool(), responses, torch.ones_like(responses).bool())


def batch_of(recorded):
    tensors, settings = recorded
    rollouts = rollouts_of(recorded)
    with torch.no_grad():
        old = actor_of(recorded)(rollouts)
    penalty = kl_estimate(old.log_probs, tensors["ref_logprobs"], settings["kl_estimator"])
    rewards = place_on_last_token(tensors["scores"], rollouts) - settings["kl_coef"] * penalty
    mask = rollouts.response_mask
    advantages, returns = generalized_advantages(rewards, old.values, mask, settings["gamma"], settings["lam"])
    return rewards, Batch(rollouts, old, whiten(advantages, mask), returns)


def settings_of(recorded, **changes):
    _, facts = recorded
    shared = ("learning_rate", "num_ppo_epochs", "num_mini_batches", "cliprange", "cliprange_value", "vf_coef")
    adam = {"adam_betas": tuple(facts["adam"][:2]), "adam_epsilon": facts["adam"][2], "max_grad_norm": None}
    values = {**{name: facts[name] for name in shared}, **adam, "steps": 1, "batch_size": 8, **changes}
    return PPOSettings(**values)


def test_log_probabilities_and_values_agree(recorded):
    tensors, _ = recorded
    _, batch = batch_of(recorded)
    torch.testing.assert_close(batch.old.log_probs, tensors["logprobs"], **AGREES)
    torch.testing.assert_close(batch.old.values, tensors["values"], **AGREES)


def test_rewards_advantages_and_returns_agree(recorded):
    tensors, _ = recorded
    rewards, batch = batch_of(recorded)
    torch.testing.assert_close(rewards, tensors["rewards"], **AGREES)
    torch.testing.assert_close(batch.advantages, tensors["advantages"], **AGREES)
    torch.testing.assert_close(batch.returns, tensors["returns"], **AGREES)


@pytest.mark.parametrize("micro_batch_size", [None, 3, 1])
def test_losses_and_updated_parameters_agree(recorded, micro_batch_size):
    tensors, _ = recorded
    actor, (_, batch) = actor_of(recorded), batch_of(recorded)
    update = PolicyUpdate(actor, settings_of(recorded, micro_batch_size=micro_batch_size))
    losses = update(0, batch, tensors["orders"])
    assert [loss.policy for loss in losses] == pytest.approx(tensors["pg_loss_stats"].flatten().tolist(), abs=1e-5)
    assert [loss.value for loss in losses] == pytest.approx(tensors["vf_loss_stats"].flatten().tolist(), abs=1e-5)
    moved = 0.0
    for name, weight in actor.policy.state_dict().items():
        torch.testing.assert_close(weight, tensors[f"trained_policy.{name}"], **AGREES)
        moved = max(moved, float((weight - tensors[f"policy.{name}"]).abs().max()))
    for name, weight in actor.critic.model.state_dict().items():
        torch.testing.assert_close(weight, tensors[f"trained_value.{name}"], **AGREES)
    # Four optimizer steps of Adam at a rate of 0.005.
    assert moved > 0.01
