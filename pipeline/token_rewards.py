"""Where the reward falls in a few real responses, under every method and under a shape: for reports."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.ppo.evaluation import SampleText
from pipeline.tasks.base import Task
from shaping.credit import METHODS, check_served
from shaping.errors import ConfigError
from shaping.rollouts import Rollouts
from shaping.shape import Shape
from shaping.shaper import Shaper


def token_rewards(task: Task, shape: Shape, texts: list[SampleText]) -> list[dict[str, Any]]:
    """Return, for each text, its tokens and its token rewards under every method and under ``winner``.

    Methods that the reward model cannot serve are left out. Each row of rewards sums to ``score``, in reward-model
    units.
    """
    shapes = {
        name: shape.with_changes(weights={name: 1.0}, balance=1.0) for name in METHODS if _served(task, name, shape)
    }
    shapes["winner"] = shape
    shapers = {name: Shaper(each, task.reward_model, task.tokenizer) for name, each in shapes.items()}
    return [_explained(task, shapers, text) for text in texts]


def _served(task: Task, method: str, shape: Shape) -> bool:
    try:
        check_served([METHODS[method]], task.reward_model, shape)
    except ConfigError:
        return False
    return True


def _explained(task: Task, shapers: dict[str, Shaper], text: SampleText) -> dict[str, Any]:
    prompt, response = torch.tensor([text.prompt_ids]), torch.tensor([text.response_ids])
    rollouts = Rollouts(prompt, torch.ones_like(prompt).bool(), response, torch.ones_like(response).bool())
    shaped = {name: shaper(rollouts) for name, shaper in shapers.items()}
    return {
        "prompt": text.prompt,
        "tokens": [task.tokenizer.decode([token]) for token in text.response_ids],
        "score": float(shaped["winner"].scores[0]),
        "rewards": {name: result.token_rewards[0].tolist() for name, result in shaped.items()},
    }
