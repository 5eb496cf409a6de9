"""Shaping: from a scored batch of responses to token rewards that keep every response's total."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shaping.certificate import Certificate
    from shaping.credit import METHODS, Credit, CreditMethod, ScoredBatch, find_credits, score_batch
    from shaping.errors import ConfigError, ShapeError, ShapetuneError, TrialFailed
    from shaping.reward_models import (
        CausalRewardModel,
        EncoderRewardModel,
        RetokenizedRewardModel,
        RewardModel,
        TextRewardModel,
    )
    from shaping.rollouts import Rollouts
    from shaping.shape import Shape
    from shaping.shape_file import ShapeFile
    from shaping.shaper import ShapedRewards, Shaper
    from shaping.units import UnitSplitter
else:
    from importlib import import_module

    # Each module's names are imported when they are asked for: torch and transformers take seconds.
    _NAMES = {
        "certificate": ("Certificate",),
        "credit": ("METHODS", "Credit", "CreditMethod", "ScoredBatch", "find_credits", "score_batch"),
        "errors": ("ConfigError", "ShapeError", "ShapetuneError", "TrialFailed"),
        "reward_models": (
            "CausalRewardModel",
            "EncoderRewardModel",
            "RetokenizedRewardModel",
            "RewardModel",
            "TextRewardModel",
        ),
        "rollouts": ("Rollouts",),
        "shape": ("Shape",),
        "shape_file": ("ShapeFile",),
        "shaper": ("ShapedRewards", "Shaper"),
        "units": ("UnitSplitter",),
    }
    _HOMES = {name: module for module, names in _NAMES.items() for name in names}

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "METHODS",
    "CausalRewardModel",
    "Certificate",
    "ConfigError",
    "Credit",
    "CreditMethod",
    "EncoderRewardModel",
    "RetokenizedRewardModel",
    "RewardModel",
    "Rollouts",
    "ScoredBatch",
    "Shape",
    "ShapeError",
    "ShapeFile",
    "ShapedRewards",
    "Shaper",
    "ShapetuneError",
    "TextRewardModel",
    "TrialFailed",
    "UnitSplitter",
    "find_credits",
    "score_batch",
]
