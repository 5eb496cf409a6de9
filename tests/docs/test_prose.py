"""Pages are easy to read: short sentences on all of them, and the measure of that is right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.prose import mean_length, sentences, words

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
BESIDE = ("CHANGELOG", "CONTRIBUTING", "examples/README")
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / f"{name}.md" for name in BESIDE)])
README_MEAN, PAGE_MEAN, README_LONGEST = 20, 22, 25

PAGE = """\
<!-- a note of forty words would not count -->
# A heading. It does not count.

One two three. Four `code with blanks`
five six! Is [seven eight](there.md) nine?

| a table | does not. Count |
| --- | --- |

```sh
nor. does. code.
```

- An item without a stop
- Another item. With +0.632 [+0.515, +0.748] of J (Cao et al. 2025), 3.5 times.

    indented = "code"

![A picture. Nor this.](picture.png)
<details markdown="1">
<summary>Nor. This.</summary>

The end
</details>
"""


def test_the_measure_counts_sentences_of_prose_alone() -> None:
    assert sentences(PAGE) == [
        "One two three.",
        "Four Code five six!",
        "Is seven eight nine?",
        "An item without a stop",
        "Another item.",
        "With +0.632 [+0.515, +0.748] of J (Cao et al 2025), 3.5 times.",
        "The end",
    ]
    assert list(map(words, sentences(PAGE))) == [3, 4, 4, 5, 2, 12, 2]
    assert mean_length(PAGE) == pytest.approx(32 / 7)


def test_the_measure_is_not_fooled() -> None:
    long = " ".join(["word"] * 40)
    assert mean_length(f"{long}.") == mean_length(f"{long}; {long}.") / 2 == 40
    assert words("a - b — c … | d") == 4
    assert mean_length("# Only a heading\n") == 0.0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_sentences_are_short(page: Path) -> None:
    assert len(sentences(page.read_text())) >= 3
    assert mean_length(page.read_text()) <= PAGE_MEAN


def test_the_readmes_sentences_are_shorter() -> None:
    text = README.read_text()
    assert mean_length(text) <= README_MEAN
    assert [each for each in sentences(text) if words(each) > README_LONGEST] == []


def test_the_readme_has_neither_semicolons_nor_clauses_that_begin_with_what() -> None:
    text = re.sub(r"^```.*?^```$", "", README.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert ";" not in text
    assert re.findall(r"\bwhat\b", text, flags=re.IGNORECASE) == []
