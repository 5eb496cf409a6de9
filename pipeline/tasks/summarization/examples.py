"""What the models of the summarization task learn from: sources with their summaries, and better and worse ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.tasks.summarization.papers import ASPECTS, Paper

# Words of a row that the tiny policy reads without a summary.
PLAIN_WORDS = 48


@dataclass(frozen=True)
class Example:
    """A source and a summary of it.

    Attributes:
        paper: The paper's name.
        aspect: What of the paper is summarized.
        source: Some of the paper's sentences.
        summary: The human one, or what stands in for it.
    """

    paper: str
    aspect: str
    source: str
    summary: str


@dataclass(frozen=True)
class SummaryPair:
    """A prompt with a better response and worse ones, as token ids that end with end-of-sequence.

    Attributes:
        prompt: The prompt.
        better: The source's own summary.
        worse: One of each of ``KINDS``.
    """

    prompt: list[int]
    better: list[int]
    worse: tuple[list[int], ...]


# The summary of another paper; the own one's words in random order; the own one without its end.
KINDS = ("other", "shuffled", "truncated")


def windows(sentences: Sequence[str], most_words: int) -> list[str]:
    """Return the sentences in order, packed into texts of at most ``most_words``; longer sentences are left out."""
    packed: list[list[str]] = []
    words = most_words
    for sentence in sentences:
        count = len(sentence.split())
        if count > most_words:
            continue
        if words + count > most_words:
            packed.append([])
            words = 0
        packed[-1].append(sentence)
        words += count
    return [" ".join(texts) for texts in packed]


def human_examples(papers: Sequence[Paper], most_words: int, most_windows: int | None = None) -> list[Example]:
    """Return the papers' human summaries, each after up to ``most_windows`` windows of the highlighted sentences."""
    return [
        Example(paper.name, aspect, source, paper.summaries[aspect])
        for paper in papers
        for aspect in ASPECTS
        for source in windows(paper.highlighted[aspect], most_words)[:most_windows]
    ]


def copied_examples(papers: Sequence[Paper], most_words: int, rounds: int, seed: int) -> list[Example]:
    """Return windows of the papers' sentences, each "summarized" by one of its own: they teach to read the source."""
    chooser, found = random.Random(seed), []
    for paper in papers:
        for _ in range(rounds):
            first = chooser.randrange(4)
            known = {sentence: None for sentence in paper.sentences}
            for source in windows(paper.sentences[first:], most_words):
                inside = [sentence for sentence in known if sentence in source and len(sentence.split()) > 5]
                if inside:
                    found.append(Example(paper.name, chooser.choice(ASPECTS), source, chooser.choice(inside)))
    return found


def plain_texts(papers: Sequence[Paper]) -> list[str]:
    """Return the papers' text in rows of at most ``PLAIN_WORDS`` words."""
    return [text for paper in papers for text in windows(paper.sentences, PLAIN_WORDS)]


def comparisons(
    examples: Sequence[Example],
    prompt_ids: Callable[[Example], list[int]],
    summary_ids: Callable[[str], list[int]],
    seed: int,
) -> list[SummaryPair]:
    """Return one comparison for each example.

    Args:
        examples: Sources with their own summaries.
        prompt_ids: From an example to its prompt's ids.
        summary_ids: From a summary to its ids, end-of-sequence included.
        seed: Of the choice among other papers, of shuffles and cuts.
    """
    chooser, found = random.Random(seed), []
    for example in examples:
        better, words = summary_ids(example.summary), example.summary.split()
        other = summary_ids(_other(example, examples, chooser))
        shuffled = summary_ids(" ".join(chooser.sample(words, len(words))))
        # End-of-sequence is put on, so that the missing words tell and not the missing end.
        kept = chooser.randrange(2, max(3, len(better) - 2))
        truncated = [*better[: min(kept, len(better) - 2)], better[-1]]
        found.append(SummaryPair(prompt_ids(example), better, (other, shuffled, truncated)))
    return found


def _other(example: Example, examples: Sequence[Example], chooser: random.Random) -> str:
    """Return the summary of another paper, mostly of the same aspect: otherwise the aspect alone would tell."""
    strict = chooser.random() < 0.8
    while True:
        other = chooser.choice(examples)
        if other.paper != example.paper and (not strict or other.aspect == example.aspect):
            return other.summary


REPEATED_TOKENS = 12


def repeating_rows(rows: Sequence[Sequence[int]], count: int, seed: int) -> list[list[int]]:
    """Return rows of random tokens: 12 of them, fewer than 6 others, and the same 12 again.

    Args:
        rows: Where the tokens are taken from, as often as they stand there.
        count: Rows to make.
        seed: Of the choice.
    """
    chooser = random.Random(seed)
    tokens = [token for row in rows for token in row]
    found = []
    for _ in range(count):
        said = chooser.choices(tokens, k=REPEATED_TOKENS)
        between = chooser.choices(tokens, k=chooser.randrange(1, REPEATED_TOKENS // 2))
        found.append([*said, *between, *said])
    return found
