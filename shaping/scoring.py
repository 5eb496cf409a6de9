"""Scores coalitions of units: absent units are deleted, never forwarded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from shaping.reward_model import RewardModel
from shaping.rollouts import Rollouts

MAX_TOKENS_PER_FORWARD = 16_384


@dataclass(frozen=True)
class Coalitions:
    """Coalitions of some responses that have the same number of units.

    Attributes:
        rows: Which responses of the batch: an ``R`` integer tensor.
        members: Which units are present: an ``R x m x N`` boolean tensor.
    """

    rows: Tensor
    members: Tensor


@dataclass(frozen=True)
class CoalitionValues:
    """Scores ``v(S)`` in the order of the plan, and what they cost.

    Attributes:
        values: One ``R x m`` tensor for each planned group, in reward-model units.
        coalitions: Rows that were really forwarded, after removing duplicates.
        forwarded_tokens: Tokens forwarded, padding included.
    """

    values: list[Tensor]
    coalitions: int
    forwarded_tokens: int


def score_coalitions(
    reward_model: RewardModel,
    rollouts: Rollouts,
    unit_index: Tensor,
    plan: list[Coalitions],
    max_tokens_per_forward: int = MAX_TOKENS_PER_FORWARD,
) -> CoalitionValues:
    """Return ``v(S)`` of every planned coalition.

    All groups are scored together: duplicates are removed, rows sorted by length and packed into forward
    passes of at most ``max_tokens_per_forward`` tokens (a longer single row is forwarded alone). A token
    without a unit, such as end-of-sequence, is present in every coalition.
    """
    kept = [_kept_tokens(rollouts, unit_index, group) for group in plan]
    owners = [group.rows.repeat_interleave(group.members.shape[1]) for group in plan]
    owner, keep = torch.cat(owners), torch.cat([mask.flatten(0, 1) for mask in kept])
    distinct, inverse = torch.unique(torch.cat([owner[:, None], keep.long()], dim=1), dim=0, return_inverse=True)
    ids, lengths = _compact(rollouts, distinct[:, 0], distinct[:, 1:].bool())
    scores, forwarded = _score_packed(reward_model, ids, lengths, max_tokens_per_forward)
    flat = scores[inverse]
    sizes = [group.members.shape[0] * group.members.shape[1] for group in plan]
    parts = torch.split(flat, sizes)
    values = [part.view(group.members.shape[:2]) for part, group in zip(parts, plan, strict=True)]
    return CoalitionValues(values, len(ids), forwarded)


def score_responses(
    reward_model: RewardModel, rollouts: Rollouts, max_tokens_per_forward: int = MAX_TOKENS_PER_FORWARD
) -> Tensor:
    """Return the score of each whole response (``B``) from a reward model that only scores rows."""
    rows = torch.arange(len(rollouts), device=rollouts.response_ids.device)
    ids, lengths = _compact(rollouts, rows, rollouts.response_mask)
    return _score_packed(reward_model, ids, lengths, max_tokens_per_forward)[0]


def _kept_tokens(rollouts: Rollouts, unit_index: Tensor, group: Coalitions) -> Tensor:
    """Return which response tokens each coalition keeps: ``R x m x T``."""
    index = unit_index[group.rows]
    tokens = index.clamp(min=0)[:, None, :].expand(-1, group.members.shape[1], -1)
    present = group.members.gather(2, tokens) if group.members.shape[2] else torch.zeros_like(tokens).bool()
    without_unit = rollouts.response_mask[group.rows] & (index < 0)
    return torch.where((index >= 0)[:, None, :], present, without_unit[:, None, :])


def _compact(rollouts: Rollouts, owner: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows of prompt and kept tokens, moved to the left, and their lengths."""
    ids, _ = rollouts.sequences()
    present = torch.cat([rollouts.prompt_mask[owner], keep], dim=1)
    order = torch.argsort((~present).to(torch.int8), dim=1, stable=True)
    return ids[owner].gather(1, order), present.sum(dim=1)


def _score_packed(reward_model: RewardModel, ids: Tensor, lengths: Tensor, max_tokens: int) -> tuple[Tensor, int]:
    order = torch.argsort(lengths, descending=True, stable=True)
    scores: Tensor | None = None
    start = forwarded = 0
    while start < len(order):
        width = int(lengths[order[start]])
        chosen = order[start : start + max(1, max_tokens // max(width, 1))]
        part = reward_model.score_rows(ids[chosen, :width], lengths[chosen])
        if scores is None:
            scores = part.new_zeros(len(order))
        scores[chosen] = part
        forwarded += width * len(chosen)
        start += len(chosen)
    return (ids.new_zeros(0).float() if scores is None else scores), forwarded
