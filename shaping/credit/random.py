"""A random split of the score over the tokens: the control for density without information."""

import torch
from torch import Tensor

from shaping.credit.base import Credit, CreditMethod, ScoredBatch
from shaping.scoring import Coalitions


def solve(batch: ScoredBatch, plan: list[Coalitions], values: list[Tensor]) -> Credit:
    """Return ``B x T`` credit ``w_t R`` with ``w`` drawn evenly from the simplex for each response."""
    mask = batch.rollouts.policy_mask
    # Normalised exponential variables are a flat Dirichlet; this form takes a generator.
    draws = torch.empty(mask.shape, dtype=batch.scores.dtype).exponential_(generator=batch.generator)
    draws = draws.to(batch.scores.device) * mask
    weights = draws / draws.sum(dim=1, keepdim=True).clamp(min=torch.finfo(draws.dtype).tiny)
    return Credit(weights * batch.scores[:, None], "token")


METHOD = CreditMethod("random", solve, sums_to_score=True)
