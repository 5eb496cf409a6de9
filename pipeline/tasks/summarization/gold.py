"""The gold measure of summaries: ROUGE against a human summary of the same source, which no run is trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from pipeline.tasks.summarization.rouge import rouge_1, rouge_l
from shaping.alignment import texts_of
from shaping.errors import ConfigError
from shaping.reward_models import TextRewardModel

MEASURES = {"rouge_l": rouge_l, "rouge_1": rouge_1}


class ReferenceRewardModel(TextRewardModel):
    """Scores a response by ROUGE against the reference of its prompt, from 0 to 1.

    Args:
        measure: A name of ``MEASURES``.
        tokenizer: The policy's.
        prompts: Token ids of the prompts that have a reference.
        references: Their human summaries.
    """

    def __init__(
        self, measure: str, tokenizer: Any, prompts: Sequence[Sequence[int]], references: Sequence[str]
    ) -> None:
        texts = [text.strip() for text in texts_of(tokenizer, [list(ids) for ids in prompts])]
        known = dict(zip(texts, references, strict=True))

        def score(asked: list[str], responses: list[str]) -> list[float]:
            missing = next((text for text in asked if text.strip() not in known), None)
            if missing is not None:
                raise ConfigError(
                    f"the gold measure {measure} has no human summary for the prompt {missing[:80]!r}",
                    "ask it about held-out prompts",
                )
            pairs = zip(asked, responses, strict=True)
            return [MEASURES[measure](known[prompt.strip()], response) for prompt, response in pairs]

        super().__init__(score, tokenizer, separate=True, name=measure)
        self._made_of = (measure, tuple(sorted(known.items())))

    def identity(self) -> str:
        """Return a hash of measure, prompts and references."""
        return hashlib.sha256(repr(self._made_of).encode()).hexdigest()
