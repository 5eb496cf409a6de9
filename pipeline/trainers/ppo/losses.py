"""Clipped PPO losses (Schulman et al., arXiv 1707.06347), KL estimators, and whitening of advantages."""

from __future__ import annotations

import torch
from torch import Tensor


def policy_loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Return the clipped surrogate loss, a mean over real tokens; lower is better. All arguments ``B x T``."""
    ratio = torch.exp(log_probs - old_log_probs)
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)
    return masked_mean(torch.maximum(unclipped, clipped), mask)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Return half the mean squared value error, where a move beyond ``clip`` earns nothing. ``B x T`` each."""
    near = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * masked_mean(torch.maximum((values - returns) ** 2, (near - returns) ** 2), mask)


def kl_estimate(log_probs: Tensor, reference_log_probs: Tensor, estimator: str) -> Tensor:
    """Return ``B x T`` estimates, in nats, of KL(policy || reference) at sampled tokens.

    ``k1`` is the log ratio, unbiased; ``k3`` is ``exp(-k1) - 1 + k1``, never negative.
    """
    ratio = log_probs - reference_log_probs
    return ratio if estimator == "k1" else torch.expm1(-ratio) + ratio


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of ``values`` over the true positions of ``mask``."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Return ``values`` with mean 0 and variance 1 over the real tokens, zero on padding.

    The variance is the unbiased one, over the real tokens less one.
    """
    count = mask.sum().clamp(min=1)
    mean = (values * mask).sum() / count
    variance = (((values - mean) ** 2) * mask).sum() / (count - 1).clamp(min=1)
    return (values - mean) * torch.rsqrt(variance + 1e-8) * mask
