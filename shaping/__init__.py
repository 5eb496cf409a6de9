"""Shaping: from a scored batch of responses to token rewards that keep every response's total."""

from shaping.certificate import Certificate
from shaping.credit import METHODS, Credit, CreditMethod, ScoredBatch
from shaping.errors import ConfigError, ShapeError, ShapetuneError, TrialFailed
from shaping.reward_model import CausalRewardModel, RewardModel
from shaping.rollouts import Rollouts
from shaping.shape import Shape
from shaping.shaper import ShapedRewards, Shaper

__all__ = [
    "METHODS",
    "CausalRewardModel",
    "Certificate",
    "ConfigError",
    "Credit",
    "CreditMethod",
    "RewardModel",
    "Rollouts",
    "ScoredBatch",
    "Shape",
    "ShapeError",
    "ShapedRewards",
    "Shaper",
    "ShapetuneError",
    "TrialFailed",
]
