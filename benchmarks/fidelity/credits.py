"""The credit of every token under a method: as an attribution, and as the policy is paid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.fidelity.field import Contender
from pipeline.tasks.models.calibration import own_samples
from pipeline.trainers.base import Task
from shaping.closure import close
from shaping.credit import METHODS, score_batch
from shaping.reward_models import RewardModel
from shaping.rollouts import Rollouts
from shaping.units import UnitSplitter

# Methods that pool over a batch see batches of the size that they see in training.
BATCH = 16


@dataclass(frozen=True)
class Found:
    """A method's credit for some responses.

    Attributes:
        contender: The method.
        attributed: ``B x T`` raw credit, a span's value evenly over its tokens: what the method says of each.
        paid: ``B x T`` closed credit where it falls, a span's on its last token: what the policy is paid.
        coalitions: Scored for one response.
        forwarded_tokens: Reward-model tokens forwarded for one response, beyond scoring it once.
    """

    contender: Contender
    attributed: Tensor
    paid: Tensor
    coalitions: float
    forwarded_tokens: float


def find_credit(
    contender: Contender, reward_model: RewardModel, tokenizer: object, rollouts: Rollouts, seed: int = 0
) -> Found:
    """Return a method's credit; what it draws at random is drawn with ``seed``."""
    method, shape, units = METHODS[contender.method], contender.shape, UnitSplitter(tokenizer)
    generator = torch.Generator().manual_seed(seed)
    attributed, paid, coalitions, tokens = [], [], 0, 0
    for rows in torch.split(torch.arange(len(rollouts)), BATCH):
        given = rollouts.select(rows)
        batch = score_batch(given, reward_model, units, shape, generator)
        credit = method.credit(batch)
        # Sparse reward belongs to no unit: it stays where it is.
        in_units = method.by_units and credit.unit != "token"
        attributed.append(over_units(credit.values, batch.unit_index) if in_units else credit.values)
        paid.append(close(credit.values, batch.scores, given, shape.closure))
        coalitions, tokens = coalitions + credit.coalitions, tokens + credit.forwarded_tokens
    count = len(rollouts)
    return Found(contender, torch.cat(attributed), torch.cat(paid), coalitions / count, tokens / count)


def over_units(values: Tensor, unit_index: Tensor) -> Tensor:
    """Return ``B x T`` credit with each unit's sum evenly on its tokens; what belongs to no unit has none."""
    member, index = unit_index >= 0, unit_index.clamp(min=0)
    totals = torch.zeros_like(values).scatter_add(1, index, values * member)
    tokens = torch.zeros_like(values).scatter_add(1, index, member.to(values.dtype))
    return (totals / tokens.clamp(min=1)).gather(1, index) * member


def sample(task: Task, responses: int, tokens: int, seed: int) -> Rollouts:
    """Return what the untrained policy says to held-out prompts; responses with a special token are left out.

    Such a token belongs to no unit and is in every coalition, so there would be fewer to take away.
    """
    chosen = task.held_out_prompts.select(torch.arange(min(responses, len(task.held_out_prompts))))
    found = own_samples(task.policy, chosen.to_ids(), tokens, task.eos_token_id, False, seed)
    special = torch.isin(found.response_ids, torch.tensor(task.tokenizer.all_special_ids))
    return found.select((~special.any(dim=1)).nonzero().squeeze(1))
