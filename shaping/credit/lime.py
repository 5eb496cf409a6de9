"""A local linear model of the score: LIME, one of the attributions of Koo et al., arXiv 2504.16272.

    minimise  sum_S exp(-d(S)^2 / width^2) (v(S) - phi_0 - sum_{i in S} phi_i)^2 + ridge |phi|^2

with ``d`` the share of units removed. Not additive to the score: closure adds the misfit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shaping.credit.base import Credit, CreditMethod, ScoredBatch
from shaping.credit.coalition_plan import all_coalitions, fits_exactly, play_by_group

KERNEL_WIDTH = 0.25
# In units of the summed kernel weight; LIME's usual ridge of 1 on unscaled data would drown small budgets.
RIDGE = 0.01


def credit(batch: ScoredBatch) -> Credit:
    """Return ``B x T`` credit: each unit's coefficient on its last token."""
    return play_by_group(batch, _plan, _solve)


def _plan(batch: ScoredBatch, rows: Tensor, units: int) -> Tensor:
    """Return ``R x m x N`` coalitions: all units, then random removals of a random number of units."""
    if fits_exactly(units, batch.budget):
        return all_coalitions(units, rows.device).flip(0).expand(len(rows), -1, -1)
    draws = max(2, batch.budget - 1)
    removed = torch.randint(1, units + 1, (len(rows), draws, 1), generator=batch.generator)
    ranks = torch.rand(len(rows), draws, units, generator=batch.generator).argsort(dim=2).argsort(dim=2)
    everything = torch.ones(len(rows), 1, units, dtype=torch.bool)
    return torch.cat([everything, ranks >= removed], dim=1).to(rows.device)


def _solve(members: Tensor, values: Tensor, exact: bool) -> tuple[Tensor, Tensor | None]:
    present, target = members.double(), values.double()
    removed_share = 1 - present.mean(dim=2)
    weight = torch.exp(-((removed_share / KERNEL_WIDTH) ** 2))
    weight = weight / weight.sum(dim=1, keepdim=True)
    # Centring on the weighted means leaves the intercept out of the ridge.
    design = present - (weight[:, :, None] * present).sum(dim=1, keepdim=True)
    target = target - (weight * target).sum(dim=1, keepdim=True)
    weighted = design * weight[:, :, None]
    ridge = RIDGE * torch.eye(members.shape[2], dtype=torch.float64, device=members.device)
    normal = design.transpose(1, 2) @ weighted + ridge
    coefficients = torch.linalg.solve(normal, weighted.transpose(1, 2) @ target[:, :, None]).squeeze(2)
    return coefficients.to(values.dtype), None


METHOD = CreditMethod("lime", credit, causal=False, by_units=True)
