"""Shapley values of units: SCAR (Cao et al., arXiv 2505.20417).

Exact where all ``2^N`` coalitions fit the budget, otherwise the mean marginal contribution along random
permutations, each taken with its reverse (antithetic).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from shaping.credit.base import Credit, CreditMethod, ScoredBatch
from shaping.credit.coalition_plan import all_coalitions, fits_exactly, play_by_group, random_permutations


def credit(batch: ScoredBatch) -> Credit:
    """Return ``B x T`` credit: each unit's Shapley value on its last token; a row sums to ``v(all) - v(none)``."""
    return play_by_group(batch, _plan, _solve)


def _plan(batch: ScoredBatch, rows: Tensor, units: int) -> Tensor:
    if fits_exactly(units, batch.budget):
        return all_coalitions(units, rows.device).expand(len(rows), -1, -1)
    pairs = max(1, batch.budget // (2 * (units + 1)))
    forward = random_permutations(len(rows), units, pairs, batch.generator).to(rows.device)
    orders = torch.stack([forward, forward.flip(2)], dim=2).flatten(1, 2)
    # A unit is in the j-th coalition of a permutation when its rank is below j.
    ranks = orders.argsort(dim=2)
    sizes = torch.arange(units + 1, device=rows.device)
    return (ranks[:, :, None, :] < sizes[None, None, :, None]).flatten(1, 2)


def _solve(members: Tensor, values: Tensor, exact: bool) -> tuple[Tensor, Tensor | None]:
    units = members.shape[2]
    if exact:
        return values @ exact_weights(units, values), None
    chains = values.view(len(values), -1, units + 1)
    steps = members.view(len(values), -1, units + 1, units)
    joined = (steps[:, :, 1:] & ~steps[:, :, :-1]).to(values.dtype)
    marginal = ((chains[:, :, 1:] - chains[:, :, :-1])[..., None] * joined).sum(dim=2)
    per_pair = marginal.view(len(values), -1, 2, units).mean(dim=2)
    pairs = per_pair.shape[1]
    error = per_pair.std(dim=1) / math.sqrt(pairs) if pairs > 1 else None
    return per_pair.mean(dim=1), error


def exact_weights(units: int, like: Tensor) -> Tensor:
    """Return the ``2^N x N`` matrix that turns the values of all coalitions into Shapley values."""
    members = all_coalitions(units, like.device)
    size = members.sum(dim=1).tolist()
    total = math.factorial(units)
    gain = [math.factorial(max(s - 1, 0)) * math.factorial(units - s) / total for s in size]
    loss = [math.factorial(s) * math.factorial(max(units - s - 1, 0)) / total for s in size]
    joined = torch.tensor(gain, dtype=torch.float64, device=like.device)[:, None]
    absent = torch.tensor(loss, dtype=torch.float64, device=like.device)[:, None]
    return torch.where(members, joined, -absent).to(like.dtype)


METHOD = CreditMethod("shapley", credit, causal=False, by_units=True)
