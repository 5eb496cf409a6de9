"""The score split by the reward model's attention: ABC (Chan et al., arXiv 2402.00782).

    phi_t = a_t R

where ``a`` is the last response token's attention in the last layer, mean over heads, renormalised over the
response.
"""

from shaping.credit.base import Credit, CreditMethod, ScoredBatch


def credit(batch: ScoredBatch) -> Credit:
    """Return ``B x T`` credit; every token takes the sign of the score."""
    attention = batch.reward_model.response_attention(batch.rollouts)
    tokens = int(batch.rollouts.prompt_tokens.sum() + batch.rollouts.response_tokens.sum())
    return Credit(attention * batch.scores[:, None], "token", forwarded_tokens=tokens)


METHOD = CreditMethod("attention", credit, causal=False, needs=frozenset({"attention"}), sums_to_score=True)
