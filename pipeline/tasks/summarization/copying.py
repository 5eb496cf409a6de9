"""Teaches a small language model to look back: rows that say the same words twice.

A model of a million parameters that reads a quarter of a million words never finds out that a summary has the words
of its source. Attention that continues what stood after the same word before (induction heads; Olsson et al., arXiv
2209.11895) forms within a few hundred steps where nothing else can be learned: in rows of random words, said twice.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

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
