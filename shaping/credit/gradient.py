"""Integrated gradients of the score on the response's embeddings (Sundararajan et al., arXiv 1703.01365).

For comparison: one of the cheap attributions. A row sums to what the score changes between a response of mean
embeddings and the response itself, up to quadrature; tokens without a unit, such as end-of-sequence, stay real.
"""

from torch import Tensor

from shaping.credit.base import Credit, CreditMethod, ScoredBatch
from shaping.scoring import Coalitions, check_finite


def solve(batch: ScoredBatch, plan: list[Coalitions], values: list[Tensor]) -> Credit:
    """Return ``B x T`` credit: each token's integrated gradient."""
    rollouts, steps = batch.rollouts, batch.shape.gradient_steps
    attributed = batch.unit_index >= 0
    found = batch.reward_model.integrated_gradients(rollouts, attributed, steps).to(batch.scores.device)
    rows = attributed.nonzero()[:, 0]
    check_finite(found[attributed], rows, batch.reward_model.name)
    tokens = steps * int(rollouts.prompt_tokens.sum() + rollouts.response_tokens.sum())
    return Credit(found * attributed, "token", forwarded_tokens=tokens)


METHOD = CreditMethod("gradient", solve, needs=frozenset({"gradient"}))
