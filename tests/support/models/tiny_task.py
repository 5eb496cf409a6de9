"""A task in memory: random models of 16 hidden units and a few prompts of different lengths."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaForCausalLM

from pipeline.trainers.base import Prompts, Task
from pipeline.trainers.ppo.settings import PPOSettings, SamplingSettings
from pipeline.trainers.ppo.trainer import PPOTrainer
from shaping.shape import Shape
from tests.support.models.tiny_models import (
    BOS,
    EOS,
    encode,
    make_rollouts,
    tiny_policy,
    tiny_reward_model,
    tiny_tokenizer,
)

PROMPTS = ["the film", "a", "i liked the cast of the film", "bad", "good music", "the plot was", "why", "a dull"]


def tiny_task(**changes: Any) -> Task:
    """Return the task; models are new at each call."""
    rows = [[BOS, *encode(prompt)] for prompt in PROMPTS]
    given = make_rollouts(rows, [[3]] * len(rows))
    prompts = Prompts(given.prompt_ids, given.prompt_mask)
    parts: dict[str, Any] = {
        "name": "tiny",
        "policy": tiny_policy(),
        "tokenizer": tiny_tokenizer(),
        "reward_model": tiny_reward_model(),
        "gold_model": tiny_reward_model(seed=5),
        "train_prompts": prompts,
        "held_out_prompts": prompts,
    }
    return Task(**{**parts, **changes})


def ending_policy() -> LlamaForCausalLM:
    """Return a policy that ends some of its responses early."""
    policy = tiny_policy()
    with torch.no_grad():
        policy.lm_head.weight[EOS] *= 4
    return policy


def tiny_trainer(
    shape: Shape | None = None,
    task: Task | None = None,
    sampling: dict[str, Any] | None = None,
    seed: int = 3,
    **ppo: Any,
) -> PPOTrainer:
    """Return a trainer of a few steps."""
    settings = PPOSettings(**{"steps": 3, "batch_size": 5, "learning_rate": 1e-2, **ppo})
    chosen = SamplingSettings(**{"response_tokens": 6, **(sampling or {})})
    return PPOTrainer(task or tiny_task(), shape or Shape(weights={"prefix": 1.0}), settings, chosen, seed)
