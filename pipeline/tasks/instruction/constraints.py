"""Constraints that a program can check, in the manner of IFEval (Zhou et al., arXiv 2311.07911).

What is checked, and how, is IFEval's; the words that ask for it are short ones of our own, and the arguments are such
that an answer of a few dozen tokens can fulfil them. Checkers that want data which the package index does not have
(counts of sentences and of capital words) are left out, and so are constraints that a chat model of 135M parameters
never fulfilled in 128 answers (quotation marks around the answer, a question mark at its end): nothing is learned from
a reward that is never given.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Constraint:
    """One constraint on a response.

    Attributes:
        kind: The checker's name in IFEval.
        arguments: What its checker is built with.
        words: How a prompt asks for it; empty where no prompt does.
    """

    kind: str
    arguments: dict[str, Any] = field(default_factory=dict)
    words: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the constraint as plain values."""
        return asdict(self)

    @property
    def key(self) -> tuple[str, str]:
        """What tells one check from another: kind and arguments."""
        return self.kind, repr(sorted(self.arguments.items()))


KEYWORDS = ("water", "time", "people", "small", "old", "good", "world", "house", "long", "light", "work", "life")
FORBIDDEN = ("the", "is", "and", "it", "of", "are")
REPEATED = ("the", "and", "of", "a", "they", "to")
OPENINGS = ("well", "yes", "today", "sometimes", "maybe", "often")


def _lower_case(_: random.Random) -> Constraint:
    return Constraint("change_case:english_lowercase", {}, "Write in lower case only, without any capital letter.")


def _no_comma(_: random.Random) -> Constraint:
    return Constraint("punctuation:no_comma", {}, "Do not use any commas.")


def _few_words(chooser: random.Random) -> Constraint:
    most = chooser.choice((10, 12, 15))
    arguments = {"relation": "less than", "num_words": most}
    return Constraint("length_constraints:number_words", arguments, f"Use fewer than {most} words.")


def _many_words(chooser: random.Random) -> Constraint:
    least = chooser.choice((18, 20, 22))
    arguments = {"relation": "at least", "num_words": least}
    return Constraint("length_constraints:number_words", arguments, f"Use at least {least} words.")


def _keyword(chooser: random.Random) -> Constraint:
    word = chooser.choice(KEYWORDS)
    return Constraint("keywords:existence", {"keywords": [word]}, f'Include the word "{word}".')


def _twice(chooser: random.Random) -> Constraint:
    word = chooser.choice(REPEATED)
    arguments = {"keyword": word, "frequency": 2, "relation": "at least"}
    return Constraint("keywords:frequency", arguments, f'Use the word "{word}" at least twice.')


def _forbidden(chooser: random.Random) -> Constraint:
    word = chooser.choice(FORBIDDEN)
    return Constraint("keywords:forbidden_words", {"forbidden_words": [word]}, f'Do not use the word "{word}".')


def _opening(chooser: random.Random) -> Constraint:
    word = chooser.choice(OPENINGS)
    arguments = {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": word}
    words = f'Begin your answer with the word "{word}".'
    return Constraint("length_constraints:nth_paragraph_first_word", arguments, words)


def _highlight(_: random.Random) -> Constraint:
    arguments = {"num_highlights": 1}
    words = "Highlight one word with asterisks, like *this*."
    return Constraint("detectable_format:number_highlighted_sections", arguments, words)


Drawn = Callable[[random.Random], Constraint]
DRAWS: tuple[Drawn, ...] = (
    _lower_case,
    _no_comma,
    _few_words,
    _many_words,
    _keyword,
    _twice,
    _forbidden,
    _opening,
    _highlight,
)
# Pairs that ask the same checker twice, or what hardly fits into so few words.
APART = ({_few_words, _many_words}, {_forbidden, _twice}, {_few_words, _twice})


def draw_constraints(chooser: random.Random, count: int) -> tuple[Constraint, ...]:
    """Return ``count`` constraints that can be fulfilled together."""
    while True:
        chosen = chooser.sample(DRAWS, count)
        if not any(pair <= set(chosen) for pair in APART):
            return tuple(draw(chooser) for draw in chosen)


# What a review shall be, for a policy that cannot read instructions: the same for every prompt.
REVIEW_RULES = (
    Constraint("punctuation:no_comma"),
    Constraint("keywords:existence", {"keywords": ["film"]}),
    Constraint("keywords:frequency", {"keyword": "and", "frequency": 2, "relation": "at least"}),
    Constraint("keywords:forbidden_words", {"forbidden_words": ["but", "not", "n't"]}),
)
