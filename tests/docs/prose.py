"""The measure of a page's prose: its sentences, and how many words each has."""

from __future__ import annotations

import re

# Code, and everything that is no sentence: comments, tags, tables, headings, pictures.
BLOCKS = re.compile(r"^```.*?^```$|<!--.*?-->", flags=re.DOTALL | re.MULTILINE)
SUMMARY = re.compile(r"<summary>.*?</summary>")
PICTURE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
# Code inside a line is one word, whatever stands in it.
CODE = re.compile(r"`[^`]*`")
ITEM = re.compile(r"^\s*(?:[-*]|\d+\.)\s+")
# A sentence ends at a full stop, a question mark or an exclamation mark, behind which something new begins.
END = re.compile(r"(?<=[.!?])[)*\"']*\s+(?=[(*\"'`\[]*[A-Z0-9`±†\\])")
ABBREVIATIONS = re.compile(r"\b(et al|e\.g|i\.e|vs)\.")


def paragraphs(text: str) -> list[str]:
    """Return the prose of a Markdown page: paragraphs, and items of lists as paragraphs of their own."""
    text = CODE.sub("Code", PICTURE.sub("", SUMMARY.sub("", BLOCKS.sub("", text))))
    found: list[list[str]] = [[]]
    for line in LINK.sub(r"\1", text).splitlines():
        if not line.strip() or line.startswith(("#", "|", "<", "    ")):
            found.append([])
        elif ITEM.match(line):
            found.append([ITEM.sub("", line)])
        else:
            found[-1].append(line.strip())
    return [" ".join(lines) for lines in found if lines]


def sentences(text: str) -> list[str]:
    """Return the sentences of a Markdown page."""
    return [
        sentence
        for paragraph in paragraphs(text)
        for sentence in END.split(ABBREVIATIONS.sub(r"\1", paragraph))
        if words(sentence)
    ]


def words(sentence: str) -> int:
    """Return how many words a sentence has: whatever stands between blanks and holds a letter or a digit."""
    return sum(1 for word in sentence.split() if any(sign.isalnum() for sign in word))


def mean_length(text: str) -> float:
    """Return the mean number of words of a page's sentences; 0 where it has none."""
    lengths = [words(sentence) for sentence in sentences(text)]
    return sum(lengths) / max(1, len(lengths))
