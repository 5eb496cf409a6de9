"""Generalised advantage estimation over token rewards (Schulman et al., arXiv 1506.02438)."""

from __future__ import annotations

import torch
from torch import Tensor


def generalized_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns, each ``B x T``, zero on padding.

    ``delta_t = r_t + gamma V_{t+1} - V_t`` and ``A_t = delta_t + gamma lambda A_{t+1}``, with nothing after a
    response's last token; returns are ``A + V``.

    Args:
        rewards: ``B x T`` token rewards.
        values: ``B x T`` value of the state before each token.
        mask: ``B x T`` boolean, true on real tokens.
        gamma: Discount.
        gae_lambda: Weight of the longer estimates.
    """
    rewards, values = rewards * mask, values * mask
    estimate = _from_the_end if rewards.device.type == "cpu" else by_doubling
    advantages = estimate(rewards, values, mask, gamma, gae_lambda)
    return advantages, (advantages + values) * mask


def _from_the_end(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    """Return the advantages token by token, as they are defined."""
    advantages = torch.zeros_like(rewards)
    following_advantage = torch.zeros_like(rewards[:, 0])
    following_value = torch.zeros_like(rewards[:, 0])
    for position in range(rewards.shape[1] - 1, -1, -1):
        delta = rewards[:, position] + gamma * following_value - values[:, position]
        following_advantage = (delta + gamma * gae_lambda * following_advantage) * mask[:, position]
        advantages[:, position] = following_advantage
        following_value = values[:, position]
    return advantages


def by_doubling(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    """Return the advantages with a number of kernels that grows with the logarithm of the length, for accelerators.

    They differ from those of the loop in rounding: after ``k`` passes each token has the sum over ``2^k`` of them (a
    scan of affine maps: Hillis and Steele, CACM 1986). Arguments are those of ``generalized_advantages``, with nothing
    on padding.
    """
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    total, factor = (rewards + gamma * following - values) * mask, gamma * gae_lambda * mask.to(rewards.dtype)
    reach, width = 1, rewards.shape[1]
    while reach < width:
        nearer, farther = slice(None, width - reach), slice(reach, None)
        total = torch.cat([total[:, nearer] + factor[:, nearer] * total[:, farther], total[:, width - reach :]], dim=1)
        # What reaches beyond the end has nothing more to add.
        factor = torch.cat(
            [factor[:, nearer] * factor[:, farther], torch.zeros_like(factor[:, width - reach :])], dim=1
        )
        reach *= 2
    return total
