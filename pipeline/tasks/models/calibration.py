"""A reward model's scores: whether one along a response is a score of what stands there, and where they begin."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.trainers.base import Prompts
from pipeline.trainers.ppo.log_probs import TokenIds
from pipeline.trainers.ppo.rollout import sample_responses
from shaping.reward_models import RewardModel
from shaping.rollouts import Rollouts, unpadded
from shaping.scoring import score_responses

PREFIX_TOKENS = (4, 8, 12, 16, 24)


def prefix_calibration(
    reward_model: RewardModel, prompts: Sequence[list[int]], responses: Sequence[list[int]], eos_id: int
) -> dict[str, float]:
    """Return correlations over responses that go on after ``N`` tokens, for several ``N``.

    ``closed_correlation_N`` is between the score after ``N`` tokens and that of the ``N`` tokens closed by
    end-of-sequence; ``final_correlation_N`` is between it and the score of the whole response. An ``N`` that fewer
    than three responses reach is left out.

    Args:
        reward_model: Scores every prefix; without a score for each token it takes a pass for each.
        prompts: Token ids.
        responses: Token ids, one for each prompt, closed by end-of-sequence or cut.
        eos_id: End-of-sequence.
    """
    along = reward_model.prefix_scores(Rollouts.of_ids(list(prompts), list(responses)))
    found: dict[str, float] = {}
    for tokens in PREFIX_TOKENS:
        longer = [row for row, response in enumerate(responses) if len(response) > tokens + 1]
        if len(longer) < 3:
            continue
        closed = [[*responses[row][:tokens], eos_id] for row in longer]
        ended = reward_model.prefix_scores(Rollouts.of_ids([prompts[row] for row in longer], closed))[:, -1]
        early = along[longer, tokens]
        found[f"closed_correlation_{tokens}"] = correlation(early, ended)
        found[f"final_correlation_{tokens}"] = correlation(early, along[longer, -1])
    return found


def correlation(first: Tensor, second: Tensor) -> float:
    """Return Pearson's correlation of two vectors."""
    return float(torch.corrcoef(torch.stack([first, second]))[0, 1])


def own_samples(
    policy: PreTrainedModel,
    prompts: list[list[int]],
    tokens: int,
    end_ids: TokenIds,
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
        end_ids: The token, or the tokens, that end a response.
        stop_at_eos: Whether a response ends there; otherwise each has ``tokens``.
        seed: Of the random numbers: one for each token of each prompt, drawn batch by batch.
        temperature: Divides the logits.
        batch: Prompts of one forward pass; by default all.
    """
    generator, size, found = torch.Generator().manual_seed(seed), batch or len(prompts), list[list[int]]()
    for start in range(0, len(prompts), size):
        given = Prompts.of_ids(prompts[start : start + size], policy.device)
        uniforms = torch.rand(tokens, len(given), generator=generator)
        sampled = sample_responses(policy, given.ids, given.mask, uniforms, end_ids, stop_at_eos, temperature).rollouts
        found += unpadded(sampled.response_ids, sampled.response_mask)
    return Rollouts.of_ids(prompts, found)


def score_scale(reward_model: RewardModel, rollouts: Rollouts) -> tuple[float, float]:
    """Return mean and standard deviation of the raw scores of whole responses."""
    along = "prefix" in reward_model.abilities
    scores: Tensor = reward_model.prefix_scores(rollouts)[:, -1] if along else score_responses(reward_model, rollouts)
    return float(scores.mean()), float(scores.std())
