"""A local linear model of the score: LIME, one of the attributions of Koo et al., arXiv 2504.16272.

    minimise  sum_S exp(-d(S)^2 / width^2) (v(S) - phi_0 - sum_{i in S} phi_i)^2 + ridge |phi|^2

with ``d`` the share of units removed (Ribeiro et al., arXiv 1602.04938). Not additive to the score: closure adds the
misfit. A single unit has no neighbourhood: it takes the whole difference, as every other attribution gives it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shaping.credit.base import Credit, CreditMethod, ScoredBatch
from shaping.credit.coalition_plan import all_coalitions, groups, shared, to_credit
from shaping.credit.estimator import budget_of, is_exact
from shaping.scoring import Coalitions

KERNEL_WIDTH = 0.25
# In units of the summed kernel weight; LIME's usual ridge of 1 on unscaled data would drown small budgets.
RIDGE = 0.01


def plan(batch: ScoredBatch) -> list[Coalitions]:
    """Return all coalitions of small games; of larger ones all units and random removals of a random number."""
    return [_plan_group(batch, units, rows) for units, rows in groups(batch.unit_index)]


def solve(batch: ScoredBatch, plan: list[Coalitions], values: list[Tensor]) -> Credit:
    """Return ``B x T`` credit: each unit's coefficient on its last token."""
    solved = [(local_fit(group.members[0], found), None) for group, found in zip(plan, values, strict=True)]
    return to_credit(batch, plan, solved, batch.shape.unit)


def _plan_group(batch: ScoredBatch, units: int, rows: Tensor) -> Coalitions:
    if is_exact(batch, units, rows):
        return shared(all_coalitions(units), rows, batch.unit_index, complete=True)
    draws = max(2, budget_of(batch, units, rows, in_pairs=False) - 1)
    removed = torch.randint(1, units + 1, (draws, 1), generator=batch.generator)
    ranks = torch.rand(draws, units, generator=batch.generator).argsort(dim=1).argsort(dim=1)
    members = torch.cat([torch.ones(1, units, dtype=torch.bool), ranks >= removed])
    return shared(members, rows, batch.unit_index)


def local_fit(members: Tensor, values: Tensor) -> Tensor:
    """Return ``R x N`` coefficients of the weighted ridge on coalitions ``m x N`` with values ``R x m``."""
    present, target = members.double(), values.double()
    if members.shape[1] == 1:
        inside = members[:, 0]
        return (target[:, inside].mean(dim=1) - target[:, ~inside].mean(dim=1))[:, None]
    weight = torch.exp(-(((1 - present.mean(dim=1)) / KERNEL_WIDTH) ** 2))
    weight = weight / weight.sum()
    # Centring on the weighted means leaves the intercept out of the ridge.
    design = present - weight @ present
    target = target - (target @ weight)[:, None]
    normal = design.mT @ (weight[:, None] * design) + RIDGE * torch.eye(
        members.shape[1], dtype=torch.float64, device=members.device
    )
    found: Tensor = torch.linalg.solve(normal, ((target * weight) @ design).mT).mT
    return found


METHOD = CreditMethod("lime", solve, plan, by_units=True)
