"""What a reward model's score is where training begins: it becomes 0, and its spread becomes 1."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.trainers.base import Prompts
from pipeline.trainers.ppo.rollout import sample_responses
from shaping.reward_models import RewardModel
from shaping.rollouts import Rollouts, unpadded
from shaping.scoring import score_responses


def own_samples(
    policy: PreTrainedModel,
    prompts: list[list[int]],
    tokens: int,
    eos_id: int,
    stop_at_eos: bool,
    seed: int,
    temperature: float = 1.0,
    batch: int | None = None,
) -> Rollouts:
    """Return one sampled response of at most ``tokens`` to each prompt.

    Args:
        policy: A causal language model.
        prompts: Ids of each prompt.
        tokens: The longest response.
        eos_id: The end-of-sequence token.
        stop_at_eos: Whether a response ends there; otherwise each has ``tokens``.
        seed: Of the random numbers: one for each token of each prompt, drawn batch by batch.
        temperature: Divides the logits.
        batch: Prompts of one forward pass; by default all.
    """
    generator, size, found = torch.Generator().manual_seed(seed), batch or len(prompts), list[list[int]]()
    for start in range(0, len(prompts), size):
        given = Prompts.of_ids(prompts[start : start + size], policy.device)
        uniforms = torch.rand(tokens, len(given), generator=generator)
        sampled = sample_responses(policy, given.ids, given.mask, uniforms, eos_id, stop_at_eos, temperature).rollouts
        found += unpadded(sampled.response_ids, sampled.response_mask)
    return Rollouts.of_ids(prompts, found)


def score_scale(reward_model: RewardModel, rollouts: Rollouts) -> tuple[float, float]:
    """Return mean and standard deviation of the raw scores of whole responses."""
    along = "prefix" in reward_model.abilities
    scores: Tensor = reward_model.prefix_scores(rollouts)[:, -1] if along else score_responses(reward_model, rollouts)
    return float(scores.mean()), float(scores.std())
