"""The PPO inner loop on a GPU: response tokens a second, utilisation in the update, peak memory. Not run anywhere yet.

    python -m benchmarks.ppo.gpu --peak-tflops 989      # H100 and H200: bfloat16, dense

Models of random weights in the sizes of SmolLM2-135M and of a 1B Llama; nothing is downloaded. Utilisation is the
model's operations (6 for each weight and token that it is applied to, attention not counted) over the time of the
update and the peak of the GPU.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from benchmarks.common.record import Claim, current_commit, markdown, write
from pipeline.trainers.base import Prompts, Task
from pipeline.trainers.ppo.settings import PPOSettings, SamplingSettings
from pipeline.trainers.ppo.trainer import PPOTrainer
from pipeline.trainers.ppo.update import PolicyUpdate
from shaping import CausalRewardModel, Shape

SIZES: dict[str, dict[str, int]] = {
    "smollm2": {
        "vocab_size": 49_152,
        "hidden_size": 576,
        "intermediate_size": 1_536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    },
    "llama1b": {
        "vocab_size": 128_256,
        "hidden_size": 2_048,
        "intermediate_size": 8_192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
}
EPOCHS, WARM_UP = 2, 1


def main() -> None:
    """Measure every size and write ``results/ppo_gpu.json``."""
    options, commit = _options(), current_commit()
    claims, rows = [], []
    for model in options.models:
        found = measure(SIZES[model], options)
        values = [found["tokens"] / found["step"], found["flops"] / found["update"] / 1e12 / options.peak_tflops]
        values.append(found["memory"] / 2**30)
        names = ("tokens_per_second", "update_mfu", "peak_gib")
        claims += [
            Claim(f"ppo.gpu_{name}_{model}", value, value, value, 1) for name, value in zip(names, values, strict=True)
        ]
        rows.append([model, f"{values[0]:,.0f}", f"{values[1]:.1%}", f"{values[2]:.1f}"])
    table = markdown(("model", "response tokens a second", "MFU of the update", "peak GiB"), rows)
    write("ppo_gpu", claims, table, {name: str(value) for name, value in vars(options).items()}, commit, "ppo.gpu")


def measure(size: dict[str, int], options: argparse.Namespace) -> dict[str, float]:
    """Return wall seconds of a step and of its update, the update's operations, and bytes of peak GPU memory."""
    device = torch.device(options.device)
    trainer = _trainer(size, options)
    for step in range(WARM_UP):
        trainer.step(step)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with _timed_updates(device) as updates:
        start = _now(device)
        for step in range(WARM_UP, WARM_UP + options.steps):
            trainer.step(step)
        seconds = (_now(device) - start) / options.steps
    return {
        "step": seconds,
        "update": sum(updates) / len(updates),
        "tokens": options.batch_size * options.response_tokens,
        "flops": operations(size, options.batch_size, options.prompt_tokens, options.response_tokens),
        "memory": torch.cuda.max_memory_allocated() if device.type == "cuda" else 0,
    }


def operations(size: dict[str, int], batch: int, prompt: int, response: int) -> float:
    """Return the operations of one update: layers see whole sequences, the head sees the response only."""
    hidden, heads = size["hidden_size"], size["num_attention_heads"]
    key_width = hidden // heads * size["num_key_value_heads"]
    layer = 2 * hidden * hidden + 2 * hidden * key_width + 3 * hidden * size["intermediate_size"]
    layers, head = size["num_hidden_layers"] * layer, hidden * size["vocab_size"]
    return 6.0 * EPOCHS * batch * (layers * (prompt + response) + head * response)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peak-tflops", type=float, required=True, help="of the GPU, dense, in the precision used")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--models", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--response-tokens", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5)
    return parser.parse_args()


def _trainer(size: dict[str, int], options: argparse.Namespace) -> PPOTrainer:
    config = {**size, "max_position_embeddings": 2_048, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(0)
    reward_model = CausalRewardModel(LlamaForSequenceClassification(LlamaConfig(**config, num_labels=1)))
    ids = torch.randint(3, size["vocab_size"], (options.batch_size, options.prompt_tokens))
    prompts = Prompts(ids, torch.ones_like(ids, dtype=torch.bool))
    task = Task(
        name="random",
        policy=LlamaForCausalLM(LlamaConfig(**config)).eval(),
        tokenizer=_words(size["vocab_size"]),
        reward_model=reward_model,
        gold_model=None,
        train_prompts=prompts,
        held_out_prompts=prompts,
    )
    settings = PPOSettings(
        steps=WARM_UP + options.steps,
        batch_size=options.batch_size,
        num_ppo_epochs=EPOCHS,
        learning_rate=1e-6,
        device=options.device,
        precision=options.dtype,
        save_steps=0,
    )
    return PPOTrainer(task, Shape(), settings, SamplingSettings(response_tokens=options.response_tokens), seed=0)


def _words(count: int) -> PreTrainedTokenizerFast:
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{index}": index for index in range(3, count)}}
    core = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


@contextmanager
def _timed_updates(device: torch.device) -> Iterator[list[float]]:
    """Give a list to which every update adds its wall seconds."""
    seconds: list[float] = []
    update = PolicyUpdate.__call__

    def timed(self: PolicyUpdate, *arguments: Any) -> Any:
        start = _now(device)
        found = update(self, *arguments)
        seconds.append(_now(device) - start)
        return found

    with mock.patch.object(PolicyUpdate, "__call__", timed):
        yield seconds


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
