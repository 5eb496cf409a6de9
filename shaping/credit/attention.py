"""The score split by the reward model's attention: ABC (Chan et al., arXiv 2402.00782).

    phi_t = a_t R

where ``a`` is the attention from where the score is read, in the paper the last layer's mean over heads,
renormalised over what the policy wrote of the response.
"""

import torch
from torch import Tensor

from shaping.credit.base import Credit, CreditMethod, ScoredBatch
from shaping.scoring import Coalitions


def solve(batch: ScoredBatch, plan: list[Coalitions], values: list[Tensor]) -> Credit:
    """Return ``B x T`` credit; every token takes the sign of the score."""
    rollouts, shape = batch.rollouts, batch.shape
    attention = batch.reward_model.response_attention(rollouts, shape.attention_layer, shape.attention_heads)
    attention = attention.to(batch.scores.device) * rollouts.policy_mask
    attention = attention / attention.sum(dim=1, keepdim=True).clamp(min=torch.finfo(attention.dtype).tiny)
    tokens = int(rollouts.prompt_tokens.sum() + rollouts.response_tokens.sum())
    return Credit(attention * batch.scores[:, None], "token", forwarded_tokens=tokens)


METHOD = CreditMethod("attention", solve, needs=frozenset({"attention"}), sums_to_score=True)
