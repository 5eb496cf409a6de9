"""What a step is said to take, against what training takes."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from pipeline.config.load import find_config, load_config, parse_config
from pipeline.config.schema import StudyConfig
from pipeline.estimate.fit import GIB, fit_into
from pipeline.estimate.live_bytes import LiveBytes
from pipeline.estimate.outlines import outline_of
from pipeline.estimate.step_memory import SAMPLING, UPDATING, StepEstimate
from pipeline.tasks.custom.task import load
from pipeline.trainers.ppo.evaluation import evaluate
from pipeline.trainers.ppo.trainer import PPOTrainer
from shaping.errors import ConfigError
from tests.support.models.own_models import chat_tokenizer, own_values, write_lines

WORDS = ["good", "film", "cast", "plot", "bad", "dull", "music", "end", "why", "story"]
PROMPTS = [" ".join(WORDS[(7 * number + 3 * place) % 10] for place in range(8)) + f" {number}" for number in range(64)]
# A wide batch; a deep model with a critic of its own, cut small; an adapter, whose layers are found again.
SHAPES: dict[str, dict[str, Any]] = {
    "wide": {
        "model": {"hidden_size": 128, "num_hidden_layers": 3, "intermediate_size": 352, "vocab_size": 3000},
        "ppo": {"batch_size": 16},
        "sampling": {"response_tokens": 64},
        "evaluation": {"prompts": 32},
    },
    "deep": {
        "model": {"hidden_size": 64, "num_hidden_layers": 6, "intermediate_size": 256, "vocab_size": 500},
        "ppo": {"batch_size": 8, "micro_batch_size": 2, "critic": "network"},
        "sampling": {"response_tokens": 48, "micro_batch_size": 4},
        "evaluation": {"prompts": 16},
    },
    "adapter": {
        "model": {"hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 512, "vocab_size": 2000},
        "ppo": {"batch_size": 8, "lora": {"rank": 4}, "critic": "reward_model", "gradient_checkpointing": True},
        "sampling": {"response_tokens": 64},
        "evaluation": {"prompts": 8},
    },
}


def written(folder: Path, model: dict[str, int]) -> None:
    """Write a policy and a reward model of some sizes, and prompts of one length."""
    sizes = {**model, "num_attention_heads": 4, "max_position_embeddings": 512, "pad_token_id": 0}
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(folder / "policy")
    LlamaForSequenceClassification(LlamaConfig(**sizes, num_labels=1)).save_pretrained(folder / "reward")
    for name in ("policy", "reward"):
        chat_tokenizer().save_pretrained(folder / name)
    write_lines(folder / "prompts.jsonl", [{"prompt": prompt} for prompt in PROMPTS])


def config_of(folder: Path, shape: str) -> StudyConfig:
    chosen = SHAPES[shape]
    written(folder, chosen["model"])
    longest = max(len(ids) for ids in chat_tokenizer()(PROMPTS)["input_ids"])
    values = own_values(folder, held_out_share=0.5, max_prompt_tokens=longest)
    ppo = {"steps": 2, "device": "cpu", **chosen["ppo"]}
    return parse_config({**values, **{name: chosen[name] for name in ("sampling", "evaluation")}, "ppo": ppo}, "x")


@pytest.mark.parametrize("shape", SHAPES)
def test_peak_is_within_a_seventh_of_what_training_and_evaluation_take(shape: str, tmp_path: Path) -> None:
    config = config_of(tmp_path, shape)
    task = load(config.task, None)
    judge = task.reward_model.model  # type: ignore[attr-defined]
    weights = [*task.policy.parameters(), *judge.parameters()]
    fixed = sum(weight.numel() * weight.element_size() for weight in weights)
    gc.collect()
    with LiveBytes() as live:
        live.leave_out([*weights, *task.policy.buffers(), *judge.buffers()])
        trainer = PPOTrainer(task, config.base_shape(), config.ppo, config.sampling, 0)
        live.most = live.now
        for _ in trainer.steps():
            pass
        evaluate(trainer, config.evaluation.prompts)
    found = StepEstimate(config, outline_of(config), on_gpu=False).memory()
    assert found.peak == pytest.approx(fixed + live.most, rel=0.15)


def test_half_the_room_is_half_the_responses_and_those_fit(tmp_path: Path) -> None:
    estimate = StepEstimate(config_of(tmp_path, "wide"), outline_of(config_of(tmp_path, "wide")), on_gpu=False)
    memory = estimate.memory()
    for part in (SAMPLING, UPDATING):
        whole = estimate.largest_rows(part, memory.parts[part])
        assert whole == {SAMPLING: 32, UPDATING: 16}[part]
        assert whole // 3 <= estimate.largest_rows(part, memory.parts[part] // 2) <= whole // 2
    assert estimate.largest_rows(UPDATING, 1) == 0


def test_half_precision_and_quantized_weights_take_less(tmp_path: Path) -> None:
    config = config_of(tmp_path, "wide")
    whole = StepEstimate(config, outline_of(config), on_gpu=True).memory()
    values = config.model_dump(mode="json")
    values["task"]["policy"]["dtype"], values["task"]["reward_model"]["quantization"] = "bfloat16", "nf4"
    less = parse_config(values, "x")
    found = StepEstimate(less, outline_of(less), on_gpu=True).memory()
    assert found.weights["reference"] == pytest.approx(whole.weights["reference"] / 2, abs=1000)
    assert found.weights["policy"] == whole.weights["policy"]
    assert found.weights["reward model"] < 0.8 * whole.weights["reward model"]
    on_cpu = StepEstimate(config, outline_of(config), on_gpu=False).memory()
    # What a GPU multiplies in bfloat16 is kept so, too.
    assert whole.parts[UPDATING] < 0.9 * on_cpu.parts[UPDATING]
    assert whole.parts[SAMPLING] < on_cpu.parts[SAMPLING]


def test_what_does_not_fit_is_refused_with_the_setting_that_would(tmp_path: Path) -> None:
    config = config_of(tmp_path, "wide")
    assert fit_into(config, 2).memory.peak < 0.5 * GIB
    taken = StepEstimate(config, outline_of(config), on_gpu=True).memory()
    tight = 1 + (taken.stays + taken.parts[UPDATING] // 2) / 0.95 / GIB
    with pytest.raises(ConfigError, match=r"updating takes .*\nset ppo.micro_batch_size to \d+$") as refused:
        fit_into(config, tight)
    values = config.model_dump(mode="json")
    values["ppo"]["micro_batch_size"] = int(str(refused.value).rpartition(" ")[2])
    fit_into(parse_config(values, "x"), tight)
    with pytest.raises(ConfigError, match=r"weights and optimizer take .*\ntrain an adapter"):
        fit_into(config, 1 + taken.stays / 2 / GIB)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sentiment_gpu", "summarization_gpu", "instruction_gpu"])
def test_configs_for_a_gpu_fit_into_one_of_80_gib(name: str) -> None:
    fit = fit_into(load_config(find_config(name)), 80)
    assert fit.seconds.step > 0 and "GiB at its peak" in fit.line()


def test_nothing_of_it_is_left_in_torch() -> None:
    assert torch.nn.Linear(2, 2).double().weight.dtype == torch.float64
