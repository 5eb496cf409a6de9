"""All of the score on the last token: what RLHF does without shaping."""

from torch import Tensor

from shaping.credit.base import Credit, CreditMethod, ScoredBatch
from shaping.rollouts import place_on_last_token
from shaping.scoring import Coalitions


def solve(batch: ScoredBatch, plan: list[Coalitions], values: list[Tensor]) -> Credit:
    """Return ``B x T`` credit: ``R`` on the last token, zero elsewhere."""
    return Credit(place_on_last_token(batch.scores, batch.rollouts), "response")


METHOD = CreditMethod("sparse", solve, causal=True, sums_to_score=True)
