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
    advantages = torch.zeros_like(rewards)
    following_advantage = torch.zeros_like(rewards[:, 0])
    following_value = torch.zeros_like(rewards[:, 0])
    for position in range(rewards.shape[1] - 1, -1, -1):
        delta = rewards[:, position] + gamma * following_value - values[:, position]
        following_advantage = (delta + gamma * gae_lambda * following_advantage) * mask[:, position]
        advantages[:, position] = following_advantage
        following_value = values[:, position]
    return advantages, (advantages + values) * mask
