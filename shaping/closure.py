"""Closure: whatever a method found, a response's credit sums to its score."""

from __future__ import annotations

from torch import Tensor

from shaping.rollouts import Rollouts, place_on_last_token


def close(credit: Tensor, scores: Tensor, rollouts: Rollouts, closure: str) -> Tensor:
    """Return ``B x T`` credit whose rows sum to ``scores``.

    The residual ``R - sum_t phi_t`` is added on the last token (``last``) or evenly (``spread``) to what the policy
    wrote. Where it wrote nothing there is nowhere to put a reward: the row stays zero.
    """
    residual = scores - credit.sum(dim=1)
    if closure == "last":
        return credit + place_on_last_token(residual, rollouts)
    share = residual / rollouts.policy_tokens.clamp(min=1)
    return credit + share[:, None] * rollouts.policy_mask
