"""Signs that a run has come to nothing: each ends the trial under a name of its own."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline.trainers.ppo.log_probs import TokenIds, as_list
from pipeline.trainers.ppo.settings import PPOSettings
from shaping.errors import TrialFailed
from shaping.rollouts import Rollouts

# A bound that was chosen: rounding stays far below it, in half precision too; another temperature goes beyond it.
ENGINE_KL_NATS = 0.1


def check_reward_scale(step: int, token_rewards: Tensor, kl_nats: float, settings: PPOSettings) -> None:
    """Refuse rewards that nothing can be learned from.

    Raises:
        TrialFailed: A reward or the KL is not finite (``nan``), or the policy is too far from the reference
            (``kl_limit``).
    """
    if not bool(torch.isfinite(token_rewards).all()) or not math.isfinite(kl_nats):
        raise TrialFailed("nan", f"a reward or the KL is not finite at step {step}")
    limit = settings.kl_limit_nats
    if abs(kl_nats) > limit:
        raise TrialFailed("kl_limit", f"KL {kl_nats:.1f} nats at step {step} is beyond kl_limit_nats = {limit:g}")


def check_responses(step: int, rollouts: Rollouts, end_ids: TokenIds, settings: PPOSettings) -> None:
    """Refuse a policy that says nothing, or one thing only.

    Raises:
        TrialFailed: All responses are empty but for their end (``empty_responses``), or one token makes up more
            than ``collapse_share`` of all tokens of the batch (``collapse``).
    """
    ids = rollouts.response_ids
    ends = torch.isin(ids, torch.tensor(as_list(end_ids), device=ids.device))
    said = ids[rollouts.response_mask & ~ends]
    if len(said) == 0:
        raise TrialFailed(
            "empty_responses",
            f"every response of step {step} is empty",
            "lower the learning rate, or set sampling.stop_at_eos to false",
        )
    tokens, counts = torch.unique(said, return_counts=True)
    share = float(counts.max()) / len(said)
    # A few tokens are no sign of anything.
    if len(said) >= settings.collapse_tokens and share > settings.collapse_share:
        raise TrialFailed(
            "collapse",
            f"token {int(tokens[counts.argmax()])} makes up {share:.0%} of the responses of step {step}, "
            f"beyond collapse_share = {settings.collapse_share:g}",
            "lower the learning rate or raise kl_coef",
        )


def check_engine(step: int, kl_nats: float) -> None:
    """Refuse responses of an engine that does not sample from the policy that is trained.

    Args:
        step: The training step.
        kl_nats: ``KL(engine || policy)`` of a token, as the responses say.

    Raises:
        TrialFailed: It is more than rounding explains (``disagreement``).
    """
    if not abs(kl_nats) <= ENGINE_KL_NATS:
        raise TrialFailed(
            "disagreement",
            f"at step {step} the engine's log-probabilities are {kl_nats:.3g} nats a token from the policy's, beyond "
            f"{ENGINE_KL_NATS:g}",
            "start vLLM as docs/training.md says; or set sampling.engine to transformers",
        )
