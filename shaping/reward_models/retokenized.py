"""A reward model whose tokenizer is not the policy's: units and credit travel through character offsets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from shaping.alignment import AlignedRollouts, DecodedRollouts
from shaping.reward_models.base import RewardModel, VariantScores
from shaping.rollouts import Rollouts
from shaping.variants import Variants


class RetokenizedRewardModel:
    """Another reward model, seen in the policy's tokens.

    Each token of the reward model belongs to the one policy token that completes it: its credit goes there, and it
    is absent when that token is. A response is tokenized once; coalitions take tokens away and never tokenize anew.

    Args:
        inner: The reward model, over its own tokens.
        tokenizer: The reward model's tokenizer; must give offsets.
        policy_tokenizer: The tokenizer of the responses.
        prompt_text: Rewrites the text of a prompt for the reward model, such as into its own chat template.
        framed: Whether prompts begin with what the tokenizer puts before a text, such as beginning-of-sequence; off
            for an ``EncoderRewardModel``, which frames rows itself.
        eos_token_id: What stands for the policy's end-of-sequence in the reward model's rows; ``None``: nothing.
        more_end_ids: Tokens that end a response beside the policy's end-of-sequence.
    """

    def __init__(
        self,
        inner: RewardModel,
        tokenizer: Any,
        policy_tokenizer: Any,
        prompt_text: Callable[[str], str] | None = None,
        framed: bool = True,
        eos_token_id: int | None = None,
        more_end_ids: tuple[int, ...] = (),
    ) -> None:
        self.inner, self.name, self.abilities = inner, inner.name, inner.abilities
        self.added_tokens, self.layers = inner.added_tokens, inner.layers
        self._tokenizer, self._policy_tokenizer = tokenizer, policy_tokenizer
        self._prompt_text, self.framed, self.eos_token_id = prompt_text, framed, eos_token_id
        self.more_end_ids = more_end_ids
        self._last: tuple[Rollouts, AlignedRollouts] | None = None

    def identity(self) -> str:
        """Return the inner reward model's: through whose tokens it is seen changes no score of a whole text."""
        return str(self.inner.identity())  # type: ignore[attr-defined]

    def score(self, variants: Variants) -> VariantScores:
        """Return the score of every variant."""
        aligned = self.align(variants.rollouts)
        keep = aligned.keep(variants.owner, variants.keep)
        return self.inner.score(Variants(aligned.rollouts, variants.owner, keep, variants.absent))

    def prefix_scores(self, rollouts: Rollouts) -> Tensor:
        """Return ``B x (T + 1)`` scores after the tokens that each policy token completes."""
        aligned = self.align(rollouts)
        scores, mask = self.inner.prefix_scores(aligned.rollouts), aligned.rollouts.response_mask
        completed = mask.new_zeros(len(rollouts), rollouts.response_ids.shape[1], dtype=torch.long)
        completed.scatter_add_(1, aligned.policy_token, mask.long())
        place = torch.cat([torch.zeros_like(completed[:, :1]), completed.cumsum(dim=1)], dim=1)
        return scores.gather(1, place)

    def response_attention(self, rollouts: Rollouts, layer: int = -1, heads: str = "mean") -> Tensor:
        """Return ``B x T`` attention, each token's on the policy token that completes it."""
        aligned = self.align(rollouts)
        found = self.inner.response_attention(aligned.rollouts, layer, heads)
        return aligned.to_policy(found, rollouts.response_ids.shape[1])

    def integrated_gradients(self, rollouts: Rollouts, absent: Tensor, steps: int) -> Tensor:
        """Return ``B x T`` integrated gradients, each token's on the policy token that completes it."""
        aligned = self.align(rollouts)
        rows = torch.arange(len(rollouts), device=absent.device)
        found = self.inner.integrated_gradients(aligned.rollouts, aligned.keep(rows, absent), steps)
        return aligned.to_policy(found, rollouts.response_ids.shape[1])

    def align(self, rollouts: Rollouts) -> AlignedRollouts:
        """Return the batch in the reward model's tokens; the last batch is remembered."""
        if self._last is None or self._last[0] is not rollouts:
            decoded = DecodedRollouts.of(rollouts, self._policy_tokenizer, self.more_end_ids)
            if self._prompt_text is not None:
                decoded = replace(decoded, prompts=[self._prompt_text(text) for text in decoded.prompts])
            aligned = AlignedRollouts.of(decoded, self._tokenizer, self.framed, self.eos_token_id)
            self._last = (rollouts, aligned)
        return self._last[1]
