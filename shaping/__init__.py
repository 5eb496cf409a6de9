"""Shaping: from a scored batch of responses to token rewards that keep every response's total."""

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
