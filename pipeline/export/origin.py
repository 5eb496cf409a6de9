"""Where a generated module's shape comes from, as a comment."""

from __future__ import annotations

from shaping.printable import printable
from shaping.shape_file import ShapeFile


def origin(content: ShapeFile) -> str:
    """Return comment lines: study, arm, shape, and what the study took off scores.

    Names are quoted as Python quotes them, so that none ends its line.
    """
    lines = [f"Study {content.study.get('name')!r}, arm {content.study.get('arm')!r}: {content.shape.describe()}."]
    if content.missing_eos_penalty:
        lines.append(f"The study took {content.missing_eos_penalty:g} off the score of a response without its end.")
    return "\n".join(f"# {printable(line)}" for line in lines)
