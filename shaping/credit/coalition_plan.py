"""What the coalition methods share: grouping responses by their number of units, and listing coalitions."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from shaping.credit.base import Credit, ScoredBatch
from shaping.scoring import Coalitions
from shaping.units import on_last_token, unit_counts

EXACT_UNITS = 12

Planner = Callable[[ScoredBatch, Tensor, int], Tensor]
Solver = Callable[[Tensor, Tensor, bool], tuple[Tensor, Tensor | None]]


def play_by_group(batch: ScoredBatch, plan: Planner, solve: Solver) -> Credit:
    """Return the credit of a coalition method.

    Args:
        batch: The scored batch.
        plan: From the batch, the rows of a group (``R``) and their ``N`` to coalitions ``R x m x N``.
        solve: From coalitions, their values (``R x m``) and whether they are all there are, to unit values
            ``R x N`` and their standard error. A sample may be as large as the whole by chance, so the count of
            coalitions does not tell.
    """
    groups = [Coalitions(rows, plan(batch, rows, units)) for units, rows in _rows_by_units(batch.unit_index)]
    most = max((group.members.shape[2] for group in groups), default=1)
    unit_values = batch.scores.new_zeros(len(batch.rollouts), most)
    unit_errors = torch.zeros_like(unit_values)
    played = batch.play(groups) if groups else None
    has_error = bool(groups)
    for group, values in zip(groups, played.values if played else [], strict=True):
        exact = fits_exactly(group.members.shape[2], batch.budget)
        solved, error = solve(group.members, values, exact)
        unit_values[group.rows, : solved.shape[1]] = solved
        if error is None:
            # Exact solutions have no sampling error; only a wholly exact batch reports none.
            has_error = has_error and len(groups) > 1
        else:
            unit_errors[group.rows, : error.shape[1]] = error
    return Credit(
        values=on_last_token(unit_values, batch.unit_index),
        unit=batch.unit,
        standard_error=on_last_token(unit_errors, batch.unit_index) if has_error and unit_errors.any() else None,
        coalitions=played.coalitions if played else 0,
        forwarded_tokens=played.forwarded_tokens if played else 0,
    )


def _rows_by_units(unit_index: Tensor) -> Iterator[tuple[int, Tensor]]:
    counts = unit_counts(unit_index)
    for units in torch.unique(counts).tolist():
        if units > 0:
            yield units, torch.nonzero(counts == units).squeeze(1)


def all_coalitions(units: int, device: torch.device) -> Tensor:
    """Return every coalition of ``N`` units as a ``2^N x N`` boolean tensor, in binary order."""
    numbers = torch.arange(2**units, device=device)
    return (numbers[:, None] >> torch.arange(units, device=device)) & 1 == 1


def fits_exactly(units: int, budget: int) -> bool:
    """Return whether all ``2^N`` coalitions cost no more than the budget."""
    return units <= EXACT_UNITS and 2**units <= budget


def random_permutations(rows: int, units: int, count: int, generator: torch.Generator) -> Tensor:
    """Return ``R x count x N`` independent uniform permutations."""
    keys = torch.rand(rows, count, units, generator=generator)
    return keys.argsort(dim=2)
