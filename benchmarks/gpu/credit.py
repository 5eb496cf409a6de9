"""Coalitions in three precisions, and the attention row of long texts."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from benchmarks.gpu.clock import Clock
from benchmarks.gpu.models import Workload, words
from pipeline.estimate.fit import GIB
from shaping import Rollouts, Shape
from shaping.shaper import Shaper

# Name, type of the weights, tokens of a forward pass, and whether float32 products may be rounded.
SETTINGS = (
    ("float32, 2,048 tokens", torch.float32, 2_048, False),
    ("TF32, 32,768 tokens", torch.float32, 32_768, True),
    ("bfloat16, 32,768 tokens", torch.bfloat16, 32_768, False),
)
SHAPLEY = Shape(weights={"shapley": 1.0}, unit="token", max_units=8, budget=64)


def credit_parts(work: Workload) -> list[dict[str, Any]]:
    """Return coalitions a second of span Shapley values in each setting, and what an attention row takes."""
    found, clock = [], Clock(work.device)
    rollouts, tokenizer = _rollouts(work), words(work.policy["vocab_size"])
    for name, dtype, tokens, rounded in SETTINGS:
        torch.backends.cuda.matmul.allow_tf32 = rounded
        model = work.reward_model(dtype, tokens)
        shaper = Shaper(SHAPLEY, model, tokenizer, 0)
        shaper.shaped(rollouts.select(torch.arange(1, device=rollouts.response_ids.device)))
        shaped, spent = clock.measured(partial(shaper.shaped, rollouts))
        counted = {
            "coalitions_per_second": shaped.coalitions / spent.wall_seconds,
            "forwarded_tokens_per_second": shaped.forwarded_tokens / spent.wall_seconds,
        }
        found.append({"part": f"coalitions, {name}", **counted, **vars(spent)})
        del shaper, shaped
        if dtype == torch.bfloat16:
            before = torch.cuda.memory_allocated() / GIB if work.device == "cuda" else None
            _, spent = clock.measured(partial(model.response_attention, rollouts))
            found.append({"part": "attention row", "weights_gib": before, **vars(spent)})
        del model
        clock.release()
    torch.backends.cuda.matmul.allow_tf32 = False
    return found


def _rollouts(work: Workload) -> Rollouts:
    prompts = work.prompts()
    generator = torch.Generator().manual_seed(4)
    shape = (work.scored, work.response_tokens)
    responses = torch.randint(3, work.policy["vocab_size"], shape, generator=generator).to(work.device)
    rows = slice(work.scored)
    return Rollouts(prompts.ids[rows], prompts.mask[rows], responses, torch.ones_like(responses).bool())
