"""Papers of the ACL with human summaries, fetched once from a pinned, hash-checked wheel.

ACLSum has, for each of 250 papers, the sentences of abstract, introduction and conclusion, and for each of three
aspects a summary of about 23 words and the sentences that the annotators highlighted for it. The package itself is
never installed. Papers are split by a hash of their id, so that no paper is in two parts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.tasks.corpora import WheelFile, fetch, hashed_position

ASPECTS = ("challenge", "approach", "outcome")
SECTIONS = ("abstract", "introduction", "conclusion")


def _corpus(split: str, sha256: str) -> WheelFile:
    return WheelFile(
        content="the papers with summaries",
        wheel="aclsum==0.1.2",
        wheel_sha256="c75ffc48d3eabc5f37c68ea087943780a85950087957759e89746f21111f2213",
        member=f"aclsum/dataset/{split}.jsonl",
        member_sha256=sha256,
        kept_as=f"aclsum-{split}.jsonl",
    )


CORPUS = (
    _corpus("train", "be8ee16765e0691745875e7e380382eaa5eb426d7c1bbe70270809729534e3eb"),
    _corpus("val", "354ca637395a8597388f1751c288cb38a4697f7d7783722c1727135d3934ee60"),
    _corpus("test", "491ee57a8bb2bc65af4c7c1cfe5a114dc140b093fc24c242a21785ea4ed9786f"),
)

# Shares of the papers. The reward model never sees the papers whose prompts the policy is trained on: it would know
# their summaries by heart. Neither sees the test papers, whose summaries are the gold measure's references.
TEST_SHARE = 0.2
REWARD_SHARE = 0.45
SHARES = {"test": TEST_SHARE, "reward": REWARD_SHARE}

# A reference in brackets such as "(Vaswani et al., 2017)"; it says nothing in a summary.
_CITATION = re.compile(r"\([^()]*\b(?:19|20)\d\d[a-z]?\b[^()]*\)")
_SPACE_BEFORE = re.compile(r" +([.,;:!?%)\]]|n't\b|'s\b)")
_SPACE_AFTER = re.compile(r"([(\[]) +")


@dataclass(frozen=True)
class Paper:
    """One paper.

    Attributes:
        name: Its id in the ACL Anthology.
        part: ``policy``, ``reward`` or ``test``.
        sentences: Of abstract, introduction and conclusion, in order.
        highlighted: For each aspect the sentences that a summary of it rests on, in order.
        summaries: For each aspect the human summary.
    """

    name: str
    part: str
    sentences: tuple[str, ...]
    highlighted: dict[str, tuple[str, ...]]
    summaries: dict[str, str]


def fetch_papers(cache: Path) -> list[Path]:
    """Return the paths of the corpus, downloading it with pip when it is not in the cache.

    Raises:
        ShapetuneError: The download failed or its content is not the pinned one.
    """
    return [fetch(file, cache) for file in CORPUS]


def read_papers(paths: Sequence[Path]) -> list[Paper]:
    """Return all papers, in file order."""
    lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    return [_paper(json.loads(line)) for line in lines]


def part_of_paper(name: str) -> str:
    """Return ``test``, ``reward`` or ``policy`` from a hash of the paper's id: stable, order-free."""
    position = hashed_position(name)
    if position < TEST_SHARE:
        return "test"
    return "reward" if position < TEST_SHARE + REWARD_SHARE else "policy"


def plain_sentence(text: str) -> str:
    """Return a sentence of the corpus, whose words and signs stand apart, as people write it, without citations."""
    text = _SPACE_AFTER.sub(r"\1", _SPACE_BEFORE.sub(r"\1", text))
    return " ".join(_SPACE_BEFORE.sub(r"\1", _CITATION.sub("", text)).split())


def _paper(row: dict[str, dict[str, dict[str, list[int]]]]) -> Paper:
    sentences = [plain_sentence(text) for section in SECTIONS for text in row["sentences"][section]]
    marks = {
        aspect: [mark for section in SECTIONS for mark in row["highlights"][aspect][section]] for aspect in ASPECTS
    }
    highlighted = {
        aspect: tuple(text for text, mark in zip(sentences, marks[aspect], strict=True) if mark) for aspect in ASPECTS
    }
    summaries = {aspect: " ".join(str(row["summary"][aspect]).split()) for aspect in ASPECTS}
    name = str(row["id"])
    return Paper(name, part_of_paper(name), tuple(sentences), highlighted, summaries)
