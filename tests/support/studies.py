"""Configs of tiny studies."""

from __future__ import annotations

from typing import Any

from pipeline.config.load import parse_config
from pipeline.config.schema import StudyConfig

TINY_RECIPE = {
    "vocabulary": 400,
    "hidden_size": 16,
    "intermediate_size": 32,
    "layers": 2,
    "heads": 2,
    "policy_epochs": 1,
    "reward_epochs": 1,
    "max_reviews": 600,
}


def tiny_values(**changes: Any) -> dict[str, Any]:
    """The plain values of a study that runs in seconds; ``changes`` replace whole sections."""
    values: dict[str, Any] = {
        "name": "tiny",
        "task": {"recipe": TINY_RECIPE},
        "space": {"name": "credit_mix", "methods": ["prefix", "shapley"]},
        "sampling": {"response_tokens": 6},
        "ppo": {"steps": 2, "batch_size": 4},
        "evaluation": {"prompts": 8, "kept_texts": 1},
        "search": {"trials": 6, "sobol_trials": 1, "seeds": [0, 1]},
        "confirm": {"seeds": [100, 101]},
        "executor": {"name": "local"},
    }
    return {**values, **changes}


def tiny_config(**changes: Any) -> StudyConfig:
    return parse_config(tiny_values(**changes), "tiny")
