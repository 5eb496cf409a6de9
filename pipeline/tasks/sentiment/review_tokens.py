"""Film reviews in a policy's tokens: the first words are the prompt, the rest is what somebody wrote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shaping.rollouts import opening_tokens

PROMPT_TOKENS = 6  # <s> and five tokens of a review
# Of a policy with other tokens than the reward model: each reads whole words.
PROMPT_WORDS = 5


@dataclass(frozen=True)
class ReviewTokens:
    """Reviews as a policy reads them, without a chat template.

    Attributes:
        tokenizer: The policy's.
        tiny: Whether the policy is the one that was trained on reviews: they begin with ``<s>`` to it.
    """

    tokenizer: Any
    tiny: bool

    def prompt(self, words: str) -> list[int]:
        """Return the ids of a review's first words."""
        opening = [int(self.tokenizer.bos_token_id)] if self.tiny else opening_tokens(self.tokenizer)
        return [*opening, *self._ids(words)]

    def split(self, text: str, most_tokens: int) -> tuple[list[int], list[int]]:
        """Return the prompt that a review gives, and its rest, with end-of-sequence where it is not cut.

        Args:
            text: The review, one space between words.
            most_tokens: Of both together.
        """
        end = int(self.tokenizer.eos_token_id)
        if self.tiny:
            row = [*self.prompt(text), end][:most_tokens]
            return row[:PROMPT_TOKENS], row[PROMPT_TOKENS:]
        words = text.split(" ")
        prompt = self.prompt(" ".join(words[:PROMPT_WORDS]))
        rest = [*self._ids("".join(f" {word}" for word in words[PROMPT_WORDS:])), end]
        return prompt, rest[: max(0, most_tokens - len(prompt))]

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
