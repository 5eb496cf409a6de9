"""Whitening of advantages before an update."""

from __future__ import annotations

import torch
from torch import Tensor


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Return ``values`` with mean 0 and variance 1 over the real tokens, zero on padding.

    The variance is the unbiased one, over the real tokens less one.
    """
    count = mask.sum().clamp(min=1)
    mean = (values * mask).sum() / count
    variance = (((values - mean) ** 2) * mask).sum() / (count - 1).clamp(min=1)
    return (values - mean) * torch.rsqrt(variance + 1e-8) * mask
