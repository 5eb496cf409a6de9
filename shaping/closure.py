"""Closure: whatever a method found, a response's credit sums to its score."""

from __future__ import annotations

from torch import Tensor

from shaping.rollouts import Rollouts, place_on_first_token, place_on_last_token


def close(credit: Tensor, scores: Tensor, rollouts: Rollouts, closure: str, own_scores: Tensor | None = None) -> Tensor:
    """Return ``B x T`` credit whose rows sum to ``scores``.

    The residual ``R - sum_t phi_t`` is mostly what the reward model gives to an empty response, a constant of the
    prompt. Where a response may end early and ``lambda`` is below 1, that constant on the last token (``last``) is a
    prize or a price for ending; before all that the policy chose (``first``) it says nothing about it. What was added
    to the reward model's own score, such as a penalty, is about the end and stands there under ``first`` as well.
    ``spread`` divides the residual evenly.

    Where the policy wrote nothing there is nowhere to put a reward: the row stays zero.

    Args:
        credit: ``B x T`` raw credit, zero where the policy wrote nothing.
        scores: ``B``: what each row shall sum to.
        rollouts: The responses.
        closure: ``last``, ``first`` or ``spread``.
        own_scores: ``B`` scores without what was added to them; by default nothing was.
    """
    if closure == "first":
        own = scores if own_scores is None else own_scores
        constant = place_on_first_token(own - credit.sum(dim=1), rollouts)
        return credit + constant + place_on_last_token(scores - own, rollouts)
    residual = scores - credit.sum(dim=1)
    if closure == "last":
        return credit + place_on_last_token(residual, rollouts)
    share = residual / rollouts.policy_tokens.clamp(min=1)
    return credit + share[:, None] * rollouts.policy_mask
