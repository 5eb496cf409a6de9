"""Shapley values by weighted least squares: KernelSHAP, one of the attributions of Koo et al., arXiv 2504.16272.

    minimise  sum_S k(S) (v(S) - v(none) - sum_{i in S} phi_i)^2   subject to  sum_i phi_i = v(all) - v(none)

with the Shapley kernel ``k`` (Lundberg and Lee, arXiv 1705.07874). With complementary pairs only the odd part of the
game enters, one equation a pair (Covert and Lee, arXiv 2012.01536, explain why pairs help). A ridge pulls towards
equal shares, which keeps the constraint. Its strength is cross-validated while all sizes are sampled. Once sizes are
drawn completely, it is the strength of least estimated risk.

The standard error has two parts: what two halves of the sample disagree on, and what the ridge is expected to have
taken away, without which few coalitions would seem certain of equal shares.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shaping.credit.base import Credit, CreditMethod, ScoredBatch
from shaping.credit.coalition_plan import all_coalitions, groups, shared, to_credit
from shaping.credit.estimator import budget_of, is_exact
from shaping.credit.paired_sampling import fully_drawn, pair_weights, sample_pairs, total_pairs, unseen_shares
from shaping.credit.ridge import Design
from shaping.credit.shapley_exact import exact_values
from shaping.scoring import Coalitions

# Random ways to cut the sample in two, over which the squared difference of the halves is averaged.
SPLITS = 8


def plan(batch: ScoredBatch) -> list[Coalitions]:
    """Return all coalitions of small games, and of larger ones none, all, and complementary pairs, side by side."""
    return [plan_group(batch, units, rows) for units, rows in groups(batch.unit_index)]


def plan_group(batch: ScoredBatch, units: int, rows: Tensor) -> Coalitions:
    """Return the plan of the responses that have ``N`` units."""
    budget = 0 if is_exact(batch, units, rows) else budget_of(batch, units, rows)
    pairs = max(1, (budget - 2) // 2)
    if budget == 0 or pairs >= total_pairs(units):
        return shared(all_coalitions(units), rows, batch.unit_index, complete=True)
    members = paired_members(sample_pairs(units, pairs, batch.generator))
    return shared(members, rows, batch.unit_index)


def paired_members(chosen: Tensor) -> Tensor:
    """Return none, all, and each chosen coalition (``p x N``) beside its complement: what ``solve_group`` reads."""
    none = torch.zeros_like(chosen[:1])
    return torch.cat([none, ~none, torch.stack([chosen, ~chosen], dim=1).flatten(0, 1)])


def solve(batch: ScoredBatch, plan: list[Coalitions], values: list[Tensor]) -> Credit:
    """Return ``B x T`` credit: each unit's value on its last token; a row sums to ``v(all) - v(none)``."""
    solved = [solve_group(group, found, batch.generator) for group, found in zip(plan, values, strict=True)]
    return to_credit(batch, plan, solved, batch.shape.unit)


def solve_group(group: Coalitions, values: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """Return unit values ``R x N`` and their standard errors, ``None`` where they are exact."""
    if group.complete:
        return exact_values(values), None
    units, values = group.members.shape[2], values.double()
    gain = values[:, 1] - values[:, 0]
    equal = (gain / units)[:, None].expand(-1, units)
    # All responses of a group play the same coalitions: one design serves them all.
    chosen = group.members[0, 2::2].double()
    pairs = len(chosen)
    present = chosen.mean(dim=1)
    targets = (values[:, 2::2] - values[:, 3::2]) / 2 - (present - 0.5) * gain[:, None]
    rows, weights = chosen - present[:, None], pair_weights(group.members[0, 2::2], pairs)
    design = Design.of(rows, weights)
    # A sample of the pairs, not of infinitely many: as fewer are left unseen, there is less to be cautious about.
    unseen = 1 - pairs / total_pairs(units)
    certain, shares = fully_drawn(group.members[0, 2::2], pairs), unseen_shares(group.members[0, 2::2], pairs)
    whole = bool(certain.any())
    strength = (design.least_risk(targets, shares, unseen) if whole else design.best_strength(targets)) * unseen
    variance = _split_half_variance(rows, weights, certain, targets, strength, generator)
    variance = variance + design.shrinkage_variance(targets, strength)
    return equal + design.solve(targets, strength), (variance * unseen).sqrt()


def _split_half_variance(
    rows: Tensor, weights: Tensor, certain: Tensor, targets: Tensor, strength: float, generator: torch.Generator
) -> Tensor:
    """Return ``R x N`` sampling variances: a quarter of the squared difference of two halves' solutions.

    Pairs of a size that was drawn completely (``certain``) are no sample: both halves keep them.
    """
    squares = torch.zeros(len(targets), rows.shape[1], dtype=targets.dtype, device=targets.device)
    kept, drawn = torch.nonzero(certain).squeeze(1), torch.nonzero(~certain).squeeze(1)
    if len(drawn) < 2:
        return squares
    for _ in range(SPLITS):
        order = drawn[torch.randperm(len(drawn), generator=generator).to(drawn.device)]
        one, other = (
            _solve_part(rows, weights, targets, strength, kept, half, len(drawn) / len(half))
            for half in order.tensor_split(2)
        )
        squares += (one - other) ** 2 / 4
    return squares / SPLITS


def _solve_part(
    rows: Tensor, weights: Tensor, targets: Tensor, strength: float, kept: Tensor, half: Tensor, factor: float
) -> Tensor:
    chosen = torch.cat([kept, half])
    part = Design.of(rows[chosen], torch.cat([weights[kept], factor * weights[half]]))
    return part.solve(targets[:, chosen], strength)


METHOD = CreditMethod("kernel_shap", solve, plan, by_units=True)
