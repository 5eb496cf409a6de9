"""The engine that every policy has: one token after another, for a whole batch."""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedModel

from pipeline.trainers.base import Prompts
from pipeline.trainers.ppo.log_probs import TokenIds
from pipeline.trainers.ppo.rollout import Sampled, sample_responses
from pipeline.trainers.ppo.settings import SamplingSettings


class LoopEngine:
    """Samples from the policy itself, whose states it keeps: nothing is asked of the policy twice.

    Args:
        policy: What is trained.
        settings: How responses are sampled.
        end_ids: The tokens that end a response.
        cached: Whether keys and values are kept from token to token.
        keeps_states: Whether the hidden states are kept.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        settings: SamplingSettings,
        end_ids: TokenIds,
        cached: bool,
        keeps_states: bool,
    ) -> None:
        self._policy, self._settings, self._end_ids = policy, settings, end_ids
        self._cached, self._keeps_states = cached, keeps_states

    def sample(self, prompts: Prompts, uniforms: Tensor, at_once: int | None) -> Sampled:
        """Return a response to each prompt."""
        return sample_responses(
            self._policy,
            prompts.ids,
            prompts.mask,
            uniforms,
            self._end_ids,
            self._settings.stop_at_eos,
            self._settings.temperature,
            self._cached,
            self._keeps_states,
            at_once,
        )

    def policy_changed(self) -> None:
        """Do nothing: the policy's own weights are read."""

    def close(self) -> None:
        """Do nothing: nothing is held."""
