"""ROUGE (Lin, 2004): how much of a reference summary's words a summary has, and in its order.

F-measures with the words of the package ``rouge-score``: lower-cased runs of letters and digits, not stemmed.
"""

from __future__ import annotations

import re
from collections import Counter

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
