"""How a coalition game is to be solved: exactly or by a sample, and of how many coalitions.

Up to 8 units all coalitions cost no more than a usual sample of larger games, because they share prefixes: they are
always enumerated. Up to 12 they are where the budget allows it or ``estimator: exact`` asks for it.
"""

from __future__ import annotations

import logging
from functools import lru_cache

from torch import Tensor

from shaping.credit.base import ScoredBatch
from shaping.shape import ALWAYS_EXACT_UNITS, MOST_EXACT_UNITS
from shaping.units import unit_counts

logger = logging.getLogger(__name__)


def is_exact(batch: ScoredBatch, units: int, rows: Tensor) -> bool:
    """Return whether all ``2^N`` coalitions of the given responses are to be scored."""
    shape = batch.shape
    if units <= ALWAYS_EXACT_UNITS:
        return True
    if units > MOST_EXACT_UNITS or shape.estimator in ("kernel", "permutation"):
        return False
    if shape.estimator == "exact":
        return True
    if shape.budget_tokens is not None:
        return float(exact_tokens(batch, rows).max()) <= shape.budget_tokens
    return bool(2**units <= shape.budget)


def budget_of(batch: ScoredBatch, units: int, rows: Tensor, in_pairs: bool = True) -> int:
    """Return how many coalitions a sample may have, so that none of the given responses exceeds the budget.

    Of two complementary coalitions each token is in one, so a pair forwards every token once and what every
    coalition has twice; that prefixes are shared only makes it less. Coalitions that are no pairs may be whole, and
    those whose absent tokens are forwarded are.
    """
    shape = batch.shape
    if shape.budget_tokens is None:
        budget = shape.budget
    else:
        in_units, always = _tokens(batch, rows)
        once = in_pairs and not forwards_absent(batch)
        of_two = in_units + 2 * always if once else 2 * (in_units + always)
        budget = max(2, 2 * (shape.budget_tokens // max(1, int(of_two.max()))))
    if budget < 2 * units:
        _warn(budget, units)
    return budget


def exact_tokens(batch: ScoredBatch, rows: Tensor) -> Tensor:
    """Return an upper bound of the response tokens that all coalitions of each given response forward: ``R``.

    Where prefixes are shared, a token of unit ``u`` follows each of the ``2^u`` choices among earlier units once,
    otherwise it is in half of all coalitions; what every coalition has may follow all ``2^N``. A layout that is cut
    into several passes repeats a path at each cut, which is not counted. Where absent tokens are forwarded too,
    every token is there twice as often: present and absent.
    """
    index = batch.unit_index[rows]
    units = unit_counts(index)
    in_units, always = _tokens(batch, rows)
    if "sharing" in batch.reward_model.abilities:
        of_units = ((index >= 0) * 2.0 ** index.clamp(min=0)).sum(dim=1)
    else:
        of_units = in_units * 2.0 ** (units - 1)
    return of_units * (2.0 if forwards_absent(batch) else 1.0) + always * 2.0**units


def forwards_absent(batch: ScoredBatch) -> bool:
    """Return whether absent tokens may be forwarded all the same: masked, or hidden where nothing is shared."""
    absent = batch.shape.absent
    return absent == "mask" or (absent == "attention" and "sharing" not in batch.reward_model.abilities)


def _tokens(batch: ScoredBatch, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return each response's tokens in units, and those that are in every coalition, the reward model's own too."""
    in_units = (batch.unit_index[rows] >= 0).sum(dim=1)
    return in_units, batch.rollouts.response_tokens[rows] - in_units + batch.reward_model.added_tokens


@lru_cache(maxsize=64)
def _warn(budget: int, units: int) -> None:
    """Say once for each case that a sample is small."""
    logger.warning(
        "a budget of %d coalitions is small for %d units: credit will be rough; give at least %d",
        budget,
        units,
        2 * units,
    )
