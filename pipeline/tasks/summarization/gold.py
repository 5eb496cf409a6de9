"""The gold measure of summaries: ROUGE (Lin, 2004) against a human summary that no run is trained on."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from shaping.alignment import texts_of
from shaping.errors import ConfigError
from shaping.reward_models import TextRewardModel

_WORD = re.compile(r"[a-z0-9]+")


def rouge_1(reference: str, summary: str) -> float:
    """Return the F-measure of shared words, from 0 to 1; higher is better."""
    wanted, given = _words(reference), _words(summary)
    shared = sum((Counter(wanted) & Counter(given)).values())
    return _f_measure(shared, len(wanted), len(given))


def rouge_l(reference: str, summary: str) -> float:
    """Return the F-measure of the longest common subsequence of words, from 0 to 1; higher is better."""
    wanted, given = _words(reference), _words(summary)
    return _f_measure(_longest_common(wanted, given), len(wanted), len(given))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _longest_common(first: list[str], second: list[str]) -> int:
    before = [0] * (len(second) + 1)
    for word in first:
        row = [0]
        for place, other in enumerate(second):
            row.append(before[place] + 1 if word == other else max(before[place + 1], row[place]))
        before = row
    return before[-1]


def _f_measure(shared: int, wanted: int, given: int) -> float:
    # 2PR / (P + R) with P = shared / given and R = shared / wanted.
    return 2 * shared / (wanted + given) if shared else 0.0


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
