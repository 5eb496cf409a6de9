"""Shapley values of units: SCAR (Cao et al., arXiv 2505.20417).

Exact for few units; beyond, the paired regression of KernelSHAP, which has the least error for its cost, or with
``estimator: permutation`` marginal contributions along antithetic random orders.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shaping.credit.base import Credit, CreditMethod, ScoredBatch
from shaping.credit.coalition_plan import groups, to_credit
from shaping.credit.estimator import budget_of, is_exact
from shaping.credit.kernel_shap import plan_group, solve_group
from shaping.credit.permutations import chains, marginals, with_reverses
from shaping.scoring import Coalitions


def plan(batch: ScoredBatch) -> list[Coalitions]:
    """Return all coalitions of small games; of larger ones a sample."""
    return [_plan_group(batch, units, rows) for units, rows in groups(batch.unit_index)]


def solve(batch: ScoredBatch, plan: list[Coalitions], values: list[Tensor]) -> Credit:
    """Return ``B x T`` credit: each unit's Shapley value on its last token; a row sums to ``v(all) - v(none)``."""
    solved = [_solve_group(batch, group, found) for group, found in zip(plan, values, strict=True)]
    return to_credit(batch, plan, solved, batch.shape.unit)


def _plan_group(batch: ScoredBatch, units: int, rows: Tensor) -> Coalitions:
    if batch.shape.estimator != "permutation" or is_exact(batch, units, rows):
        return plan_group(batch, units, rows)
    pairs = max(1, budget_of(batch, units, rows) // (2 * (units + 1)))
    orders = torch.rand(len(rows), pairs, units, generator=batch.generator).argsort(dim=2)
    members = chains(with_reverses(orders)).to(rows.device)
    return Coalitions(rows, members, batch.unit_index[rows])


def _solve_group(batch: ScoredBatch, group: Coalitions, values: Tensor) -> tuple[Tensor, Tensor | None]:
    if batch.shape.estimator != "permutation" or group.complete:
        return solve_group(group, values, batch.generator)
    return marginals(group.members, values)


METHOD = CreditMethod("shapley", solve, plan, by_units=True)
