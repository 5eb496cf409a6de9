"""What a reward model's score is where training begins: it becomes 0, and its spread becomes 1."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.ppo.rollout import sample_responses
from pipeline.tasks.base import Prompts
from shaping.reward_models import CausalRewardModel
from shaping.rollouts import Rollouts


def own_samples(
    policy: PreTrainedModel, prompts: Prompts, tokens: int, eos_id: int, stop_at_eos: bool, seed: int
) -> Rollouts:
    """Return one sampled response of at most ``tokens`` to each prompt."""
    uniforms = torch.rand(tokens, len(prompts), generator=torch.Generator().manual_seed(seed))
    return sample_responses(policy, prompts.ids, prompts.mask, uniforms, eos_id, stop_at_eos).rollouts


def score_scale(reward_model: CausalRewardModel, rollouts: Rollouts) -> tuple[float, float]:
    """Return mean and standard deviation of the raw scores of whole responses."""
    scores: Tensor = reward_model.prefix_scores(rollouts)[:, -1]
    return float(scores.mean()), float(scores.std())
