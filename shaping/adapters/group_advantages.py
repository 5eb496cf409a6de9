"""Advantages of tokens where a group of responses to one prompt stands in for a critic, as in GRPO.

In GRPO (Shao et al., arXiv 2402.03300) every token of a response has the advantage ``(R - mean R) / spread`` over its
group. With token rewards a token's advantage looks at what is still to come. With ``P_t`` the rewards of a response
before token ``t``, and their mean over the group's responses that have a token there,

    A_t = (R - mean R - (P_t - mean P_t)) / spread

so that the first token has GRPO's advantage, and with a sparse reward every token has. What was paid is taken off as a
critic's value would be; its mean over the group depends on no action at ``t``.
"""

from __future__ import annotations

import torch
from torch import Tensor

# As TRL adds it to the spread of a group.
SMALLEST_SPREAD = 1e-4


def group_advantages(scores: Tensor, token_rewards: Tensor, mask: Tensor, size: int, scale: str = "group") -> Tensor:
    """Return ``B x T`` advantages, zero where ``mask`` is.

    A group in which all scores are alike tells GRPO nothing, but their rewards may fall on different tokens. So that
    such a group is not divided by almost nothing, the spread is at least the root mean square of ``P_t - mean P_t``.

    Args:
        scores: ``B``; groups stand one after the other, ``nan`` where a response could not be scored.
        token_rewards: ``B x T``; each row sums to its score.
        mask: ``B x T``, 1 on what the policy wrote.
        size: Responses in a group.
        scale: Whose spread scores are divided by, as TRL's ``scale_rewards``: ``group``, ``batch`` or ``none``.
    """
    mask = mask * ~scores.isnan()[:, None]
    present, paid = _grouped(mask, size), _grouped(token_rewards.cumsum(dim=1) - token_rewards, size)
    usual = (paid * present).sum(dim=1, keepdim=True) / present.sum(dim=1, keepdim=True).clamp(min=1)
    moved = ((paid - usual) * present).flatten(0, 1)
    of_group = _grouped(scores, size)
    ahead = (of_group - of_group.nanmean(dim=1, keepdim=True)).flatten()[:, None] - moved
    if scale != "none":
        together = len(scores) if scale == "batch" else size
        tokens = _grouped(mask, together).sum(dim=(1, 2)).clamp(min=1)
        least = (_grouped(moved.square(), together).sum(dim=(1, 2)) / tokens).sqrt()
        spread = torch.maximum(_deviation(_grouped(scores, together)) + SMALLEST_SPREAD, least)
        ahead = ahead / spread.repeat_interleave(together)[:, None]
    return ahead.nan_to_num() * mask


def _grouped(values: Tensor, size: int) -> Tensor:
    return values.reshape(-1, size, *values.shape[1:])


def _deviation(scores: Tensor) -> Tensor:
    """Return the unbiased standard deviation of each row's numbers; ``nan`` of fewer than two."""
    count = (~scores.isnan()).sum(dim=1)
    return ((scores - scores.nanmean(dim=1, keepdim=True)).square().nansum(dim=1) / (count - 1).clamp(min=0)).sqrt()
