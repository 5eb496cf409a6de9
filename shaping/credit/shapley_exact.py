"""Shapley values from the values of all coalitions."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from shaping.credit.coalition_plan import all_coalitions


def exact_values(values: Tensor) -> Tensor:
    """Return ``R x N`` Shapley values from the values of all ``2^N`` coalitions in binary order (``R x 2^N``)."""
    units = values.shape[1].bit_length() - 1
    return values.double() @ shapley_weights(units).to(values.device)


@lru_cache(maxsize=16)
def shapley_weights(units: int) -> Tensor:
    """Return the ``2^N x N`` matrix of Shapley's weights (Shapley, 1953)."""
    members = all_coalitions(units)
    size, total = members.sum(dim=1).tolist(), math.factorial(units)
    joined = [math.factorial(max(s - 1, 0)) * math.factorial(units - s) / total for s in size]
    absent = [math.factorial(s) * math.factorial(max(units - s - 1, 0)) / total for s in size]
    gain, loss = (torch.tensor(each, dtype=torch.float64)[:, None] for each in (joined, absent))
    return torch.where(members, gain, -loss)
