"""Shapley values by weighted least squares: KernelSHAP, one of the attributions of Koo et al., arXiv 2504.16272.

    minimise  sum_S k(S) (v(S) - v(none) - sum_{i in S} phi_i)^2   subject to  sum_i phi_i = v(all) - v(none)

with the Shapley kernel ``k``. Coalitions are drawn in complementary pairs, sizes by their kernel mass.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shaping.credit.base import Credit, CreditMethod, ScoredBatch
from shaping.credit.coalition_plan import all_coalitions, fits_exactly, play_by_group

# Keeps the normal equations solvable when fewer coalitions than units were drawn; far below the signal.
RIDGE = 1e-6


def credit(batch: ScoredBatch) -> Credit:
    """Return ``B x T`` credit: each unit's value on its last token; a row sums to ``v(all) - v(none)``."""
    return play_by_group(batch, _plan, _solve)


def _plan(batch: ScoredBatch, rows: Tensor, units: int) -> Tensor:
    """Return ``R x m x N`` coalitions: none, all, then the others."""
    if units == 1:
        inner = torch.zeros(len(rows), 0, 1, dtype=torch.bool, device=rows.device)
    elif fits_exactly(units, batch.budget):
        inner = all_coalitions(units, rows.device)[1:-1].expand(len(rows), -1, -1)
    else:
        inner = _sampled_pairs(batch, len(rows), units).to(rows.device)
    none = torch.zeros(len(rows), 1, units, dtype=torch.bool, device=rows.device)
    return torch.cat([none, ~none, inner], dim=1)


def _sampled_pairs(batch: ScoredBatch, rows: int, units: int) -> Tensor:
    pairs = max(1, (batch.budget - 2) // 2)
    sizes = torch.arange(1, units, dtype=torch.float64)
    mass = 1 / (sizes * (units - sizes))
    drawn = torch.multinomial(mass, rows * pairs, replacement=True, generator=batch.generator) + 1
    ranks = torch.rand(rows, pairs, units, generator=batch.generator).argsort(dim=2).argsort(dim=2)
    chosen = ranks < drawn.view(rows, pairs, 1)
    return torch.stack([chosen, ~chosen], dim=2).flatten(1, 2)


def _solve(members: Tensor, values: Tensor, exact: bool) -> tuple[Tensor, Tensor | None]:
    units = members.shape[2]
    base, total = values[:, 0].double(), (values[:, 1] - values[:, 0]).double()
    if units == 1:
        return total[:, None].to(values.dtype), None
    inner, target = members[:, 2:].double(), values[:, 2:].double() - base[:, None]
    weight = _kernel(members[:, 2:]) if exact else torch.ones_like(target)
    # The last unit takes what the others leave: the efficiency constraint, put into the equations.
    design = inner[:, :, :-1] - inner[:, :, -1:]
    target = target - inner[:, :, -1] * total[:, None]
    weighted = design * weight[:, :, None]
    normal = design.transpose(1, 2) @ weighted + RIDGE * torch.eye(units - 1, dtype=torch.float64, device=inner.device)
    free = torch.linalg.solve(normal, (weighted.transpose(1, 2) @ target[:, :, None])).squeeze(2)
    values_of_units = torch.cat([free, (total - free.sum(dim=1))[:, None]], dim=1)
    return values_of_units.to(values.dtype), None


def _kernel(inner: Tensor) -> Tensor:
    """Return Shapley kernel weights ``R x m`` for a full enumeration; sampled coalitions already follow it."""
    units = inner.shape[2]
    size = inner.sum(dim=2).double()
    chosen = torch.lgamma(torch.tensor(units + 1.0)) - torch.lgamma(size + 1) - torch.lgamma(units - size + 1)
    return (units - 1) / (chosen.exp() * size * (units - size))


METHOD = CreditMethod("kernel_shap", credit, causal=False, by_units=True)
