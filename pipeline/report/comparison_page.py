"""Turns a comparison of studies into one HTML file that asks nothing of the network."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pipeline.report import words
from pipeline.report.comparison import MISSING, Comparison
from pipeline.report.figures import base as figures
from pipeline.report.figures.comparison import (
    best_metrics,
    best_so_far,
    study_colours,
    winner_curves,
    winner_metrics,
)
from pipeline.report.page import environment
from pipeline.report.shareable import shareable


def render_comparison(comparison: Comparison) -> str:
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
