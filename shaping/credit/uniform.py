"""The same share of the score on every token: the control that knows nothing of the text."""

from torch import Tensor

from shaping.credit.base import Credit, CreditMethod, ScoredBatch
from shaping.scoring import Coalitions


def solve(batch: ScoredBatch, plan: list[Coalitions], values: list[Tensor]) -> Credit:
    """Return ``B x T`` credit ``R / T`` on every token that the policy wrote."""
    mask = batch.rollouts.policy_mask
    share = batch.scores / batch.rollouts.policy_tokens.clamp(min=1)
    return Credit(share[:, None] * mask, "token")


# Not causal: a token's share is known only once the whole response has been scored.
METHOD = CreditMethod("uniform", solve, sums_to_score=True)
