"""Pages beside the report: several studies side by side, and an explained text."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.explain.explain import Explanation, moved
from pipeline.report import words
from pipeline.report.comparison import MISSING, StudyComparison
from pipeline.report.figures import base as figures
from pipeline.report.figures.comparison import (
    best_metrics,
    best_so_far,
    study_colours,
    winner_curves,
    winner_metrics,
)
from pipeline.report.page import environment, shareable, token_depths, write_page
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


def render_comparison(comparison: StudyComparison) -> str:
    """Return the page. Everything is escaped, except what ``figures`` made safe."""
    curves, best = winner_curves(comparison), best_so_far(comparison)
    page = environment().get_template("comparison.html.j2")
    return page.render(
        comparison=comparison,
        studies=comparison.studies,
        colours=study_colours(comparison),
        curves=curves,
        metrics=winner_metrics(comparison),
        best=best,
        best_metrics=best_metrics(comparison),
        plotly=figures.plotly_script() if curves or best else None,
        value=config_value,
        words=words,
        created=datetime.now(UTC),
    )


def config_value(value: Any) -> str:
    """Return a config's value in words; folders and addresses are left out."""
    if value is MISSING:
        return words.MISSING
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(config_value(each) for each in value) or "none"
    return shareable(str(value))
