"""Owen values of tokens inside units: SCAR's hierarchy (Cao et al., arXiv 2505.20417; Owen, 1977).

Units join one after another in random order, and the tokens of a unit join together, in random order among
themselves: a token's value is its mean marginal contribution. The tokens of a unit sum to the unit's Shapley value
in the game of units, so this says where inside a span its credit was earned.

    phi_i = sum_{Q, S} p(|Q|, K) p(|S|, s) (v(Q u S u i) - v(Q u S)),   p(a, n) = a! (n - 1 - a)! / n!

with ``Q`` sets of the other ``K - 1`` units and ``S`` sets of the other ``s - 1`` tokens of the own unit. Exact where
these are few, otherwise a mean over antithetic orders.
"""

from __future__ import annotations

from functools import lru_cache
from math import factorial

import torch
from torch import Tensor

from shaping.credit.base import Credit, CreditMethod, ScoredBatch
from shaping.credit.coalition_plan import all_coalitions, groups, to_credit
from shaping.credit.estimator import budget_of
from shaping.credit.permutations import chains, marginals, with_reverses
from shaping.credit.shapley_exact import shapley_weights
from shaping.scoring import Coalitions
from shaping.shape import ALWAYS_EXACT_UNITS, MOST_EXACT_UNITS

Structure = tuple[int, ...]


def plan(batch: ScoredBatch) -> list[Coalitions]:
    """Return for each response all coalitions of its hierarchy where they are few, otherwise chains of orders."""
    tokens = _token_index(batch.unit_index)
    planned = []
    for count, rows in groups(tokens):
        units = batch.unit_index[rows][tokens[rows] >= 0].view(len(rows), count)
        exact = torch.tensor([_is_exact(batch, tuple(row)) for row in units.tolist()], device=rows.device)
        for row, structure in zip(rows[exact], units[exact].tolist(), strict=True):
            members = _terms(tuple(structure))[0].to(rows.device)
            planned.append(Coalitions(row[None], members[None], tokens[row[None]], complete=True))
        if not bool(exact.all()):
            planned.append(_sampled(batch, rows[~exact], units[~exact], tokens))
    return planned


def solve(batch: ScoredBatch, plan: list[Coalitions], values: list[Tensor]) -> Credit:
    """Return ``B x T`` credit of every token; a unit's tokens sum to the unit's Shapley value."""
    solved: list[tuple[Tensor, Tensor | None]] = []
    for group, found in zip(plan, values, strict=True):
        if group.complete:
            row = int(group.rows[0])
            structure = tuple(batch.unit_index[row][group.unit_index[0] >= 0].tolist())
            solved.append((found.double() @ _terms(structure)[1].to(found.device), None))
        else:
            solved.append(marginals(group.members, found))
    return to_credit(batch, plan, solved, "token")


def _token_index(unit_index: Tensor) -> Tensor:
    """Return ``B x T`` numbers of the tokens that belong to a unit, from 0, and -1 elsewhere."""
    member = unit_index >= 0
    return torch.where(member, member.long().cumsum(dim=1) - 1, -1)


def _is_exact(batch: ScoredBatch, structure: Structure) -> bool:
    shape, count = batch.shape, _count(structure)
    if shape.estimator == "permutation":
        return count <= 1 << ALWAYS_EXACT_UNITS
    if shape.estimator == "exact":
        return count <= 1 << MOST_EXACT_UNITS
    if shape.budget_tokens is not None:
        return count <= 1 << ALWAYS_EXACT_UNITS or count * len(structure) <= shape.budget_tokens
    return count <= max(1 << ALWAYS_EXACT_UNITS, shape.budget)


def _count(structure: Structure) -> int:
    """Return how many different coalitions a hierarchy has: whole units, and parts of one beside whole others."""
    units = structure[-1] + 1
    parts = sum((1 << structure.count(unit)) - 2 for unit in range(units))
    return (1 << units) + (parts << (units - 1))


@lru_cache(maxsize=256)
def _terms(structure: Structure) -> tuple[Tensor, Tensor]:
    """Return the coalitions of a hierarchy (``m x N``) and what each adds to each token's value (``m x N``)."""
    of_token = torch.tensor(structure)
    units = structure[-1] + 1
    members, weights = [], []
    for unit in range(units):
        own = of_token == unit
        others = all_coalitions(units - 1)
        joined = torch.cat([others[:, :unit], torch.zeros(len(others), 1, dtype=torch.bool), others[:, unit:]], dim=1)
        inside = all_coalitions(int(own.sum()))
        row = joined[:, of_token][:, None].repeat(1, len(inside), 1)
        row[:, :, own] = inside
        chance = [factorial(int(q)) * factorial(units - 1 - int(q)) / factorial(units) for q in others.sum(dim=1)]
        weight = torch.zeros(row.shape, dtype=torch.float64)
        weight[:, :, own] = torch.tensor(chance, dtype=torch.float64)[:, None, None] * shapley_weights(inside.shape[1])
        members.append(row.flatten(0, 1))
        weights.append(weight.flatten(0, 1))
    distinct, place = torch.unique(torch.cat(members), dim=0, return_inverse=True)
    total = torch.zeros(distinct.shape, dtype=torch.float64).index_add_(0, place, torch.cat(weights))
    return distinct, total


def _sampled(batch: ScoredBatch, rows: Tensor, units: Tensor, tokens: Tensor) -> Coalitions:
    count = units.shape[1]
    pairs = max(1, budget_of(batch, count, rows) // (2 * (count + 1)))
    place = torch.rand(len(rows), pairs, int(units.max()) + 1, generator=batch.generator).argsort(dim=2)
    within = torch.rand(len(rows), pairs, count, generator=batch.generator)
    # Tokens of a unit stay together: the unit's place decides first, the draw within it second.
    of_token = place.gather(2, units.cpu()[:, None].expand(-1, pairs, -1))
    orders = (of_token + within).argsort(dim=2).to(rows.device)
    return Coalitions(rows, chains(with_reverses(orders)), tokens[rows])


METHOD = CreditMethod("owen", solve, plan, by_units=True)
