"""Increments of the score along the response: R3HF/RED (Li et al., arXiv 2411.08302).

    phi_t = R(x, y_<=t) - R(x, y_<t)

The sum telescopes to ``R(x, y) - R(x)``; closure adds the score of the bare prompt.
"""

from shaping.credit.base import Credit, CreditMethod, ScoredBatch


def credit(batch: ScoredBatch) -> Credit:
    """Return ``B x T`` credit from the prefix scores that scoring the batch already computed."""
    assert batch.prefix_scores is not None
    increments = batch.prefix_scores[:, 1:] - batch.prefix_scores[:, :-1]
    return Credit(increments * batch.rollouts.response_mask, "token")


METHOD = CreditMethod("prefix", credit, causal=True, needs=frozenset({"prefix"}))
