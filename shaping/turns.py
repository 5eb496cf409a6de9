"""Turns of a conversation: what the policy wrote without being answered in between."""

from __future__ import annotations

import torch
from torch import Tensor

from shaping.rollouts import Rollouts


def turn_ends(rollouts: Rollouts) -> Tensor:
    """Return where a turn ends: a ``B x T`` boolean tensor, true on the last token of each."""
    mask = rollouts.policy_mask
    following = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)
    return mask & ~following


def on_turn_ends(values: Tensor, rollouts: Rollouts) -> Tensor:
    """Return ``B x T`` values with what stands on each turn's tokens on its last one, zero elsewhere.

    ``values`` are zero on what the policy did not write, so rows keep their sums.
    """
    places = _places(rollouts)
    # The next end at or behind each position; behind the last one nothing stands.
    behind = torch.where(turn_ends(rollouts), places, places.shape[1])
    following = behind.flip(1).cummin(dim=1).values.flip(1)
    wider = torch.zeros(places.shape[0], places.shape[1] + 1, dtype=values.dtype, device=values.device)
    return wider.scatter_add_(1, following, values)[:, :-1]


def on_policy_tokens(values: Tensor, rollouts: Rollouts) -> Tensor:
    """Return ``B x T`` values with what stands between turns on the policy's last token before it.

    What stands before its first token is dropped.
    """
    places = _places(rollouts)
    before = torch.where(rollouts.policy_mask, places + 1, 0).cummax(dim=1).values
    wider = torch.zeros(places.shape[0], places.shape[1] + 1, dtype=values.dtype, device=values.device)
    return wider.scatter_add_(1, before, values)[:, 1:]


def _places(rollouts: Rollouts) -> Tensor:
    mask = rollouts.policy_mask
    return torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
