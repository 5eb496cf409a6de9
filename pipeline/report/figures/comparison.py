"""The figures of a comparison: the studies' winners as curves, and how good a shape each had after how many trials."""

from __future__ import annotations

import math
from html import escape
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup

from pipeline.report.comparison import ComparedStudy, StudyComparison
from pipeline.report.data import ReportData, TrialRow
from pipeline.report.figures.base import OTHER_COLOURS, embedded, layout
from pipeline.report.figures.curves import FIRST, METRICS, add_arms, common, metrics_drawn
from pipeline.report.figures.trials import searched_value

POSTERIOR, OBSERVED = "posterior", "observed"
# Of a button; the axis has the same words.
BEST = {POSTERIOR: "posterior mean", OBSERVED: "observed mean"}


def study_colours(comparison: StudyComparison) -> dict[str, str]:
    """Return a colour for each study's label; studies beyond the last colour begin anew."""
    labels = [study.label for study in comparison.studies]
    return {label: OTHER_COLOURS[place % len(OTHER_COLOURS)] for place, label in enumerate(labels)}


def winner_metrics(comparison: StudyComparison) -> dict[str, str]:
    """Return the metrics that at least one winner has a curve of, with their labels."""
    return metrics_drawn(study.winner for study in comparison.studies if study.winner)


def winner_curves(comparison: StudyComparison) -> Markup | None:
    """Return the winners' curves of all metrics as JSON; ``None`` where no study has a winner."""
    drawn = [(study.label, study.winner) for study in comparison.studies if study.winner]
    metrics, colours = winner_metrics(comparison), study_colours(comparison)
    if FIRST not in metrics:
        return None
    notes = {study.label: "in the search" for study in comparison.studies if not study.is_confirmed}
    figure = go.Figure(layout=layout(height=420, hovermode="x unified"))
    for metric in metrics:
        add_arms(figure, drawn, metric, colours, "", notes)
    figure.update_xaxes(title_text="training steps")
    figure.update_yaxes(title_text=METRICS[FIRST])
    return embedded(figure)


def best_metrics(comparison: StudyComparison) -> dict[str, str]:
    """Return by what a best shape can be told in at least one study, with its label."""
    return {name: label for name, label in BEST.items() if any(_best(study.data, name) for study in comparison.studies)}


def best_so_far(comparison: StudyComparison) -> Markup | None:
    """Return, for each study, its best value after each trial as JSON; ``None`` where none has a value."""
    metrics, colours = best_metrics(comparison), study_colours(comparison)
    if not metrics:
        return None
    first = next(iter(metrics))
    figure = go.Figure(layout=layout(height=380, hovermode="x unified"))
    for metric in metrics:
        for place, study in enumerate(comparison.studies, start=1):
            figure.add_trace(_steps(study, metric, first, colours[study.label], place))
    figure.update_xaxes(title_text="trials", tickformat="d")
    figure.update_yaxes(title_text=metrics[first])
    return embedded(figure)


def _steps(study: ComparedStudy, metric: str, first: str, colour: str, place: int) -> Any:
    found = _best(study.data, metric)
    return go.Scatter(
        x=[trials for trials, _ in found],
        y=[value for _, value in found],
        mode="lines+markers",
        marker={"size": 5, "color": colour},
        line={"color": colour, "width": 2, "shape": "hv"},
        name=escape(study.label),
        legendrank=place,
        hovertemplate="%{y:.3f}",
        **common(metric, first),
    )


def _best(data: ReportData, metric: str) -> list[tuple[int, float]]:
    """Return the best value after each trial from the first on that has one; failed and stopped ones count as trials.

    What is expected to break a constraint is never the best.
    """
    best, found = -math.inf, []
    for place, trial in enumerate(data.trials, start=1):
        value = None if trial.breaks_constraints else _value(data, trial, metric)
        best = best if value is None else max(best, value)
        if math.isfinite(best):
            found.append((place, best))
    return found


def _value(data: ReportData, trial: TrialRow, metric: str) -> float | None:
    if metric == POSTERIOR:
        return trial.belief.mean if trial.belief and trial.belief.from_model else None
    found = searched_value(data, trial) if trial.state == "completed" else None
    return found.mean if found else None
