"""The page of an explanation: the report's coloured tokens, for any text and any shapes."""

from __future__ import annotations

from pathlib import Path

from pipeline.explain.explain import Explanation, moved
from pipeline.report import words
from pipeline.report.page import environment, token_depths, write_page
from shaping.certificate import TOLERANCE


def write_explanation(explanation: Explanation, path: Path) -> Path:
    """Write the page so that the file is either whole or as it was before, and return its path.

    Raises:
        ShapetuneError: The file cannot be written.
    """
    return write_page(render_explanation(explanation), path, "page")


def render_explanation(explanation: Explanation) -> str:
    """Return the page; everything in it is escaped."""
    page = environment().get_template("explain.html.j2")
    return page.render(
        explanation=explanation,
        words=words,
        depths=token_depths,
        moved=moved,
        tolerance=TOLERANCE,
    )
