"""The same share of the score on every token: the control that knows nothing of the text."""

from shaping.credit.base import Credit, CreditMethod, ScoredBatch


def credit(batch: ScoredBatch) -> Credit:
    """Return ``B x T`` credit ``R / T`` on every real token."""
    mask = batch.rollouts.response_mask
    share = batch.scores / batch.rollouts.response_tokens.clamp(min=1)
    return Credit(share[:, None] * mask, "token")


# Not causal: a token's share is known only once the whole response has been scored.
METHOD = CreditMethod("uniform", credit, causal=False, sums_to_score=True)
