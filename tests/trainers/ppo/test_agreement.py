"""What a run looks at before it trains: policy, reference and reward model say the same however they are asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from pipeline.trainers.base import Prompts
from pipeline.trainers.ppo.agreement import Agreement, check_first_batch, check_task
from pipeline.trainers.ppo.policy import TrainedPolicy
from pipeline.trainers.ppo.rollout import sample_responses
from pipeline.trainers.ppo.settings import LoraSettings, SamplingSettings
from shaping import TextRewardModel
from shaping.errors import ConfigError, TrialFailed
from tests.support.models.tiny_models import (
    BOS,
    EOS,
    encode,
    make_rollouts,
    real_ids,
    tiny_config,
    tiny_policy,
    tiny_tokenizer,
)
from tests.support.models.tiny_policies import POLICIES, policy_of
from tests.support.models.tiny_task import tiny_task, tiny_trainer

SAMPLING = SamplingSettings(response_tokens=6)
SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "initializer_range": 0.3}
ATTENTION = {**SIZES, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 4}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
TURNS = {"layer_types": ["linear_attention", "full_attention"] * 2}
# Policies that keep something else of the past than keys and values.
OTHERS: dict[str, dict[str, Any]] = {
    "Mamba": {**SIZES, "state_size": 8},
    "FalconMamba": {**SIZES, "state_size": 8},
    "Mamba2": {**SIZES, "state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 4},
    "Bamba": {**ATTENTION, **MAMBA2, "attn_layer_indices": [1, 3]},
    "FalconH1": {**ATTENTION, **MAMBA2, "mamba_d_ssm": 64},
    "MiniMax": {**ATTENTION, **EXPERTS, **TURNS, "block_size": 4, "head_dim": 8},
    "OpenAIGPT": {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4},
    "RecurrentGemma": {**ATTENTION, "lru_width": 32, "attention_window_size": 16, "conv1d_width": 4, "head_dim": 8},
}
RWKV = {**SIZES, "attention_hidden_size": 32}


def recurrent(name: str, options: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    special = {"pad_token_id": 0, "bos_token_id": BOS, "eos_token_id": EOS, "vocab_size": len(tiny_tokenizer())}
    config = getattr(transformers, f"{name}Config")(**{**special, **options})
    return AutoModelForCausalLM.from_config(config).eval()


def even_prompts() -> Prompts:
    rows = [[BOS, *encode(text)][:4] for text in ("the film was", "a great cast", "i liked the", "so good was the")]
    given = make_rollouts(rows, [[3]] * len(rows))
    return Prompts(given.prompt_ids, given.prompt_mask)


@torch.no_grad()
def plain_log_probs(policy: PreTrainedModel, prompt: list[int], response: list[int]) -> torch.Tensor:
    """Return what the library's whole model says of each token of a row that stands alone, without its end token."""
    logits = policy(input_ids=torch.tensor([prompt + response]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    logits[:, EOS] = -torch.inf
    return logits.log_softmax(dim=1).gather(1, torch.tensor(response)[:, None])[:, 0]


@pytest.mark.parametrize("even", [False, True], ids=["padded", "even"])
@pytest.mark.parametrize("name", OTHERS)
def test_policies_that_keep_another_past_are_sampled_as_they_are_trained(name: str, even: bool) -> None:
    policy = recurrent(name, OTHERS[name])
    prompts = {"train_prompts": even_prompts(), "held_out_prompts": even_prompts()} if even else {}
    trainer = tiny_trainer(task=tiny_task(policy=policy, **prompts), batch_size=4)
    rollouts, observed = trainer.sample(trainer._prompts(0), torch.Generator().manual_seed(1))
    assert abs(observed.kl_nats(rollouts.response_mask)) < 1e-3
    for row in range(len(rollouts)):
        expected = plain_log_probs(policy, *real_ids(rollouts, row))
        assert torch.allclose(observed.own.log_probs[row], expected, atol=1e-3)
    assert abs(trainer.step(0).kl_nats) < 1e-3


def test_policy_that_takes_no_padding_needs_prompts_of_one_length() -> None:
    policy, even = recurrent("Rwkv", RWKV), even_prompts()
    with pytest.raises(ConfigError, match=r"RwkvForCausalLM does not take padded prompts.*\n.*as many tokens"):
        tiny_trainer(task=tiny_task(policy=policy))
    trainer = tiny_trainer(task=tiny_task(policy=policy, train_prompts=even, held_out_prompts=even))
    assert abs(trainer.step(0).kl_nats) < 1e-3


@pytest.mark.parametrize("name", POLICIES)
def test_policies_of_attention_are_sampled_with_their_cache(name: str) -> None:
    policy, rows = policy_of(name), [[BOS, 5, 6], [BOS, 7], [BOS, 8, 9, 10, 11]]
    prompts = Prompts.of_ids(rows)
    judge = SimpleNamespace(name="length", score=lambda variants: SimpleNamespace(values=variants.keep.sum(1).float()))
    task = tiny_task(
        policy=policy, reward_model=judge, gold_model=None, train_prompts=prompts, held_out_prompts=prompts
    )
    found = check_task(task, policy, SAMPLING)
    # Rounding is some units of the last place of numbers of about one.
    assert found.cached and 1e-6 < found.rounding < 1e-2


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)])
def test_the_checks_leave_all_randomness_as_it_was(lora: LoraSettings | None, monkeypatch: pytest.MonkeyPatch) -> None:
    with_checks = tiny_trainer(lora=lora)
    state, point = torch.get_rng_state(), with_checks.step(0)
    found = Agreement(cached=True, rounding=1.0)
    monkeypatch.setattr("pipeline.trainers.ppo.trainer.check_task", lambda *_: found)
    without = tiny_trainer(lora=lora)
    assert torch.equal(torch.get_rng_state(), state) and without.step(0) == point


class Forgetful(nn.Module):
    """A trunk that does something else to its cache than it should."""

    def __init__(self, trunk: Any, fault: str) -> None:
        super().__init__()
        self.trunk, self.fault = trunk, fault

    def forward(self, input_ids: Any, past_key_values: Any = None, position_ids: Any = None, **rest: Any) -> Any:
        if self.fault == "dropped":
            past_key_values = None
        if self.fault == "misplaced" and past_key_values is not None:
            position_ids = torch.zeros_like(input_ids)
        given = {"past_key_values": past_key_values, "position_ids": position_ids, **rest}
        return self.trunk(input_ids=input_ids, **given)


@pytest.mark.parametrize(
    ("fault", "words"),
    [("dropped", "has kept keys and values of 0 tokens where it has read"), ("misplaced", "differs by up to")],
)
def test_policy_whose_cache_is_wrong_is_refused_before_training(fault: str, words: str) -> None:
    policy = tiny_policy()
    policy.get_input_embeddings = (lambda embedding: lambda: embedding)(policy.get_input_embeddings())
    policy.model = Forgetful(policy.model, fault).eval()
    with pytest.raises(ConfigError, match=words):
        tiny_trainer(task=tiny_task(policy=policy))


@pytest.mark.parametrize("part", [None, "model.layers.1.self_attn"])
def test_policy_in_training_mode_is_not_sampled_from(part: str | None) -> None:
    torch.manual_seed(0)
    policy = transformers.LlamaForCausalLM(tiny_config(attention_dropout=0.5)).eval()
    (policy if part is None else policy.get_submodule(part)).train()
    prompts = even_prompts()
    with pytest.raises(ConfigError, match=r"LlamaForCausalLM is in training mode.*\n.*eval\(\)"):
        sample_responses(policy, prompts.ids, prompts.mask, torch.rand(3, 4), EOS, stop_at_eos=False)
    with pytest.raises(ConfigError, match="in training mode"):
        tiny_trainer(task=tiny_task(policy=policy))


def test_policy_that_is_not_its_reference_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    copy_of = TrainedPolicy.of

    def other(source: PreTrainedModel, lora: LoraSettings | None) -> TrainedPolicy:
        found = copy_of(source, lora)
        with torch.no_grad():
            found.model.get_output_embeddings().weight[5:9] *= 1.1
        return found

    monkeypatch.setattr(TrainedPolicy, "of", other)
    with pytest.raises(ConfigError, match=r"differs from its reference by .* nats a token before any update"):
        tiny_trainer()


def test_first_batch_that_differs_from_the_reference_ends_the_run() -> None:
    rollouts, found = make_rollouts([[BOS]] * 20, [[5, 6, 7]] * 19 + [[5]]), Agreement(True, 1e-4)
    same = torch.full((20, 3), -1.0)
    one, many, padding = same.clone(), same.clone(), same.clone()
    one[4, 1] += 0.1
    many[4:8, 1] += 0.1
    padding[19, 1:] += 0.1
    for fine in (same, same + 1e-5, one, padding):
        check_first_batch(same, fine, rollouts, found)
    for wrong in (many, same * torch.nan):
        with pytest.raises(TrialFailed, match=r"in (4|20) of 20 responses") as failed:
            check_first_batch(same, wrong, rollouts, found)
        assert failed.value.reason == "disagreement"


def test_first_step_looks_at_its_own_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = tiny_trainer()
    with torch.no_grad():
        trainer.policy.model.get_output_embeddings().weight[5:9] *= 1.1
    with pytest.raises(TrialFailed, match="disagreement: before any update"):
        trainer.step(0)
    # Later on they may differ.
    trainer.step(1)


def ranked(texts: list[str]) -> list[float]:
    return [float(sum(other < text for other in texts)) for text in texts]


def drawn(texts: list[str]) -> list[float]:
    return torch.rand(len(texts)).tolist()


def broken(texts: list[str]) -> list[float]:
    return [float(text[10_000]) for text in texts]


@pytest.mark.parametrize("place", ["reward_model", "gold_model"])
@pytest.mark.parametrize(
    ("function", "words"),
    [
        (ranked, "gives one text 0 alone and [12] in a batch"),
        (drawn, "gives one text .* alone and .* in a batch"),
        (broken, "fails on response 1 of 3, .* with IndexError"),
    ],
)
def test_reward_model_must_give_one_text_one_score(function: Any, words: str, place: str) -> None:
    judge = TextRewardModel(function, tiny_tokenizer(), name="mine")
    with pytest.raises(ConfigError, match=f"mine {words}"):
        tiny_trainer(task=tiny_task(**{place: judge}))


def test_reward_model_whose_score_is_no_number_keeps_its_reason() -> None:
    judge = TextRewardModel(lambda texts: [float("nan")] * len(texts), tiny_tokenizer(), name="mine")
    with pytest.raises(TrialFailed, match="nan: reward model mine scored") as failed:
        tiny_trainer(task=tiny_task(reward_model=judge))
    assert failed.value.reason == "nan"


def test_reward_model_in_half_precision_may_round() -> None:
    def half(texts: list[str]) -> list[float]:
        # As a batch of another size would be rounded.
        return [2.0 * (1 + (2.0**-8 if len(texts) > 1 else 0)) for _ in texts]

    tiny_trainer(task=tiny_task(reward_model=TextRewardModel(half, tiny_tokenizer(), name="mine")))


def test_end_token_that_the_policy_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"token 9999 ends a response, but the policy knows \d+ tokens"):
        tiny_trainer(task=tiny_task(more_end_token_ids=(9999,)))
