"""A reward model whose tokenizer is not the policy's: units and credit travel through character offsets."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from shaping.alignment import AlignedRollouts, DecodedRollouts
from shaping.reward_models.base import RewardModel, VariantScores
from shaping.rollouts import Rollouts, unpadded
from shaping.texts.invisible import ends_of, set_ends
from shaping.variants import Variants


class RetokenizedRewardModel:
    """Another reward model, seen in the policy's tokens.

    It reads prompt and response as one text, as its tokenizer encodes that text: the score of a whole response is the
    library's own of the joined texts. A token that reaches across the prompt's end is the response's. Each token of the
    response belongs to the one policy token that completes it: its credit goes there, and it is absent when that token
    is. A response is tokenized once; coalitions take tokens away and never tokenize anew.

    Control words of the reward model that a response spells with ordinary tokens stay text.

    Args:
        inner: The reward model, over its own tokens.
        tokenizer: The reward model's tokenizer; must give offsets.
        policy_tokenizer: The tokenizer of the responses.
        prompt_text: Rewrites the text of a prompt for the reward model, such as into its own chat template.
        prompt_of: From a prompt's ids to what the reward model reads in its place; ``None`` for a prompt that it does
            not know, whose text goes through ``prompt_text``.
        framed: Whether prompts begin with what the tokenizer puts before a text, such as beginning-of-sequence; off
            for an ``EncoderRewardModel``, which frames rows itself.
        eos_token_id: What stands for the policy's end-of-sequence in the reward model's rows; ``None``: nothing.
        separate: Whether prompt and response are two texts to the reward model; by default what it says of itself
            (``pair`` of an ``EncoderRewardModel``).
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
        prompt_of: Callable[[list[int]], str | None] | None = None,
        separate: bool | None = None,
        more_end_ids: tuple[int, ...] = (),
    ) -> None:
        self.inner, self.name = inner, inner.name
        self.added_tokens, self.layers = inner.added_tokens, inner.layers
        self._tokenizer, self._policy_tokenizer = tokenizer, policy_tokenizer
        self._prompt_text, self.framed, self.eos_token_id = prompt_text, framed, eos_token_id
        self._prompt_of = prompt_of
        self.separate = bool(getattr(inner, "pair", False)) if separate is None else separate
        self.more_end_ids = more_end_ids
        if more_end_ids:
            set_ends(policy_tokenizer, {*ends_of(policy_tokenizer), *more_end_ids})
        self._last: tuple[Rollouts, AlignedRollouts] | None = None

    @property
    def abilities(self) -> Set[str]:
        """The inner reward model's."""
        return self.inner.abilities

    @property
    def lacking(self) -> dict[str, str]:
        """Why the inner reward model cannot do what others can."""
        return dict(getattr(self.inner, "lacking", {}))

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
            decoded = DecodedRollouts.of(rollouts, self._policy_tokenizer)
            decoded = replace(decoded, prompts=self._prompts(decoded))
            aligned = AlignedRollouts.of(decoded, self._tokenizer, self.framed, self.eos_token_id, self.separate)
            self._last = (rollouts, aligned)
        return self._last[1]

    def _prompts(self, decoded: DecodedRollouts) -> list[str]:
        """Return what the reward model reads of each prompt."""
        asked, found = decoded.rollouts, []
        for ids, text in zip(unpadded(asked.prompt_ids, asked.prompt_mask), decoded.prompts, strict=True):
            known = None if self._prompt_of is None else self._prompt_of(ids)
            rewritten = text if known is not None or self._prompt_text is None else self._prompt_text(text)
            found.append(rewritten if known is None else known)
        return found
