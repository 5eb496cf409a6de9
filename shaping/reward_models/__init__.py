"""Reward models, one family a file: causal language models, encoders, any function of texts, other tokenizers."""

from shaping.reward_models.base import RewardModel, VariantScores
from shaping.reward_models.causal import CausalRewardModel
from shaping.reward_models.encoder import EncoderRewardModel
from shaping.reward_models.retokenized import RetokenizedRewardModel
from shaping.reward_models.text import TextRewardModel

__all__ = [
    "CausalRewardModel",
    "EncoderRewardModel",
    "RetokenizedRewardModel",
    "RewardModel",
    "TextRewardModel",
    "VariantScores",
]
