"""What the coalition methods share: groups of responses with as many units, and lists of coalitions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from shaping.credit.base import Credit, ScoredBatch
from shaping.scoring import Coalitions
from shaping.units import on_last_token, unit_counts


def groups(unit_index: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield ``N`` and the responses that have ``N`` units, for every ``N`` above 0."""
    counts = unit_counts(unit_index)
    for units in torch.unique(counts).tolist():
        if units > 0:
            yield units, torch.nonzero(counts == units).squeeze(1)


def shared(members: Tensor, rows: Tensor, unit_index: Tensor, complete: bool = False) -> Coalitions:
    """Return one plan (``m x N``) for all the given responses, without copying it."""
    everywhere = members.to(rows.device).expand(len(rows), -1, -1)
    return Coalitions(rows, everywhere, unit_index[rows], complete)


def all_coalitions(units: int) -> Tensor:
    """Return every coalition of ``N`` units as a ``2^N x N`` boolean tensor, in binary order."""
    numbers = torch.arange(2**units)
    return (numbers[:, None] >> torch.arange(units)) & 1 == 1


def to_credit(
    batch: ScoredBatch, plan: list[Coalitions], solved: Sequence[tuple[Tensor, Tensor | None]], unit: str
) -> Credit:
    """Return unit values (``R x N`` for each group), each on its unit's last token, with their standard errors.

    An exact group has no standard error; in a batch with sampled ones it counts as 0.
    """
    most = max((group.members.shape[2] for group in plan), default=1)
    values = batch.scores.new_zeros(len(batch.rollouts), most)
    errors, index = torch.zeros_like(values), torch.full_like(batch.unit_index, -1)
    for group, (found, error) in zip(plan, solved, strict=True):
        values[group.rows, : found.shape[1]] = found.to(values.dtype)
        index[group.rows] = group.unit_index
        if error is not None:
            errors[group.rows, : error.shape[1]] = error.to(values.dtype)
    sampled = any(error is not None for _, error in solved)
    return Credit(on_last_token(values, index), unit, on_last_token(errors, index) if sampled else None)
