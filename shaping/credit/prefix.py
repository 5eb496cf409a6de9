"""Increments of the score along the response: R3HF/RED (Li et al., arXiv 2411.08302).

    phi_t = R(x, y_<=t) - R(x, y_<t)

The sum telescopes to ``R(x, y) - R(x)``; closure adds the score of the bare prompt. A causal reward model gives
all prefix scores in the pass that scores the batch; for any other each prefix is a variant of its own.

What a tool or a user answers is part of the transition that the policy's last token before it brought about, so that
token gets the answer's increments, too. Those before its first token are left to closure.
"""

from torch import Tensor

from shaping.credit.base import Credit, CreditMethod, ScoredBatch
from shaping.scoring import Coalitions, check_finite
from shaping.turns import on_policy_tokens
from shaping.variants import Variants


def solve(batch: ScoredBatch, plan: list[Coalitions], values: list[Tensor]) -> Credit:
    """Return ``B x T`` credit: each token's increment."""
    rollouts, scores, tokens, variants = batch.rollouts, batch.prefix_scores, 0, 0
    if scores is None:
        prefixes = Variants.prefixes(rollouts)
        scored = batch.reward_model.score(prefixes)
        check_finite(scored.values, prefixes.owner, batch.reward_model.name)
        scores = scored.values.to(batch.scores.device).view(len(rollouts), -1)
        tokens, variants = scored.forwarded_tokens, int((rollouts.response_tokens + 1).sum())
    increments = scores[:, 1:] - scores[:, :-1]
    own = on_policy_tokens(increments * rollouts.response_mask, rollouts)
    return Credit(own, "token", coalitions=variants, forwarded_tokens=tokens)


METHOD = CreditMethod("prefix", solve, causal=True)
