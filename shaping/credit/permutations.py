"""Marginal contributions along random orders, each taken with its reverse (antithetic)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def chains(orders: Tensor) -> Tensor:
    """Return the coalitions along orders of joining: ``R x n x N`` orders to ``R x n (N + 1) x N`` members."""
    # A unit is in the j-th coalition of an order when its rank is below j.
    ranks = orders.argsort(dim=2)
    sizes = torch.arange(orders.shape[2] + 1, device=orders.device)
    return (ranks[:, :, None, :] < sizes[None, None, :, None]).flatten(1, 2)


def with_reverses(orders: Tensor) -> Tensor:
    """Return ``R x 2 n x N`` orders, each followed by its reverse."""
    return torch.stack([orders, orders.flip(2)], dim=2).flatten(1, 2)


def marginals(members: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean marginal contributions (``R x N``) along chains of pairs, and their standard errors.

    Args:
        members: What ``chains`` returned for orders with reverses.
        values: Their values: ``R x n (N + 1)``.
    """
    units = members.shape[2]
    along = values.double().view(len(values), -1, units + 1)
    steps = members.view(len(values), -1, units + 1, units)
    joined = (steps[:, :, 1:] & ~steps[:, :, :-1]).to(along.dtype)
    marginal = ((along[:, :, 1:] - along[:, :, :-1])[..., None] * joined).sum(dim=2)
    of_pairs = marginal.view(len(values), -1, 2, units).mean(dim=2)
    pairs = of_pairs.shape[1]
    if pairs > 1:
        return of_pairs.mean(dim=1), of_pairs.std(dim=1) / math.sqrt(pairs)
    # One order and its reverse: two draws, not independent, but all there is.
    return of_pairs[:, 0], (marginal[:, 0] - marginal[:, 1]).abs() / 2
