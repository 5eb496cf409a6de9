"""The report's figure of the search: what each trial found, and what the stopped ones were on their way to."""

from __future__ import annotations

from html import escape
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup

from pipeline.report import words
from pipeline.report.data import Estimate, ReportData, TrialRow
from pipeline.report.figures.base import ARM_COLOURS, FAINT, embedded, layout
from pipeline.trials.arm import WINNER
from pipeline.trials.records import Origin

# Colour and sign of each way in which a trial comes about; signs alone tell them apart, too.
ORIGINS = {
    "baseline": ("#7b8798", "square"),
    "sobol": ("#c08a1e", "diamond"),
    "model": ("#3f7fd9", "circle"),
    Origin.EARLIER: ("#8b67d3", "triangle-up"),
}
UNKNOWN = (FAINT, "cross")


def trial_values(data: ReportData) -> Markup | None:
    """Return each trial's J as JSON, as far as there is one; ``None`` where nothing is to be drawn.

    Measured values have filled markers, projected ones open markers.
    """
    measured = [trial for trial in data.trials_in("completed") if trial.result]
    stopped = [trial for trial in data.trials_in("stopped") if trial.stop]
    if not measured and not stopped:
        return None
    figure = go.Figure(layout=layout(height=340, hovermode="closest"))
    origins = sorted(
        {trial.origin for trial in measured}, key=lambda origin: ([*ORIGINS, origin].index(origin), origin)
    )
    for origin in origins:
        figure.add_trace(_measured(data, origin, [trial for trial in measured if trial.origin == origin]))
    if stopped:
        figure.add_trace(_projected(data, stopped))
    best = [trial for trial in measured if data.winner and trial.arm == data.winner.name]
    if best:
        figure.add_trace(_ring(data, best))
    figure.update_xaxes(title_text="trial", tickformat="d")
    figure.update_yaxes(title_text=words.searched_label(data.config.search.objective))
    return embedded(figure)


def searched_value(data: ReportData, trial: TrialRow) -> Estimate | None:
    """Return a completed trial's value of what the search maximised; for gains J, which they are counted in."""
    name = "curve_objective" if data.config.search.objective == "curve" else "objective"
    return trial.result.metrics.get(name) if trial.result else None


def _measured(data: ReportData, origin: str, trials: list[TrialRow]) -> Any:
    colour, symbol = ORIGINS.get(origin, UNKNOWN)
    label = words.searched_label(data.config.search.objective)
    drawn = [(trial, value) for trial in trials if (value := searched_value(data, trial))]
    return go.Scatter(
        x=[trial.index for trial, _ in drawn],
        y=[value.mean for _, value in drawn],
        name=escape(origin),
        mode="markers",
        marker={"color": colour, "symbol": symbol, "size": 10},
        error_y=_bars([value.error or 0.0 for _, value in drawn], colour),
        hovertext=[_hover(trial, f"{label} {words.estimate(value)}") for trial, value in drawn],
        hoverinfo="text",
    )


def _projected(data: ReportData, trials: list[TrialRow]) -> Any:
    drawn = [(trial, trial.stop) for trial in trials if trial.stop]
    searched = data.config.search.objective
    return go.Scatter(
        x=[trial.index for trial, _ in drawn],
        y=[stop.objective for _, stop in drawn],
        name="stopped early: projected, not measured",
        mode="markers",
        marker={"color": FAINT, "symbol": "circle-open", "size": 11, "line": {"width": 2}},
        error_y=_bars([stop.deviation for _, stop in drawn], FAINT) | {"thickness": 1},
        hovertext=[_hover(trial, words.stop(stop, data.trial_steps, searched)) for trial, stop in drawn],
        hoverinfo="text",
    )


def _ring(data: ReportData, trials: list[TrialRow]) -> Any:
    drawn = [(trial, value) for trial in trials if (value := searched_value(data, trial))]
    return go.Scatter(
        x=[trial.index for trial, _ in drawn],
        y=[value.mean for _, value in drawn],
        name="the search's winner",
        mode="markers",
        marker={"color": ARM_COLOURS[WINNER], "symbol": "circle-open", "size": 20, "line": {"width": 2}},
        hoverinfo="skip",
    )


def _bars(sizes: list[float], colour: str) -> dict[str, Any]:
    return {"type": "data", "array": sizes, "color": colour, "thickness": 1.5, "width": 3}


def _hover(trial: TrialRow, value: str) -> str:
    lines = [f"trial {trial.index}: {trial.arm}, {trial.origin}", value]
    if trial.belief:
        lines.append(f"posterior {words.belief(trial.belief)}")
    if trial.breaks_constraints:
        lines.append(words.BREAKS)
    return "<br>".join(escape(line) for line in (*lines, words.candidate(trial.tried)))
