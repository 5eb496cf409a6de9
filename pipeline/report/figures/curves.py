"""The report's figure of what was trained: learning curves of training batches, and those measured on held-out prompts.

The first are there at every step and smoothed; the second are drawn as measured, with a marker at each measurement.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup

from pipeline.report.data import ArmResult, Estimate, ReportData
from pipeline.report.figures.base import (
    FAINT,
    Drawn,
    arm_colours,
    arms_drawn,
    embedded,
    layout,
    leader,
    transparent,
)
from pipeline.study.verdict import PLACE
from pipeline.trials.statistics import smoothed

# Of a button, and with its unit of an axis.
METRICS = {
    "objective": "J",
    "reward": "reward",
    "kl_nats": "KL, nats",
    "response_tokens": "length, tokens",
    "gold_reward": "gold reward",
    "held_out": "held-out J",
}
FIRST = "objective"
# What is measured on held-out prompts, under its name there.
HELD_OUT = {"gold_reward": "gold_reward", "held_out": "objective"}
LAST_RANK = 1000
# More points than pixels would only make the page heavy.
MOST_POINTS = 300
DIGITS = 5


@dataclass(frozen=True)
class Series:
    """An arm's curve, seed by seed.

    Attributes:
        steps: After how many training steps there are values.
        values: One row a seed, in the order of ``steps``.
        held_out: Whether they were measured on held-out prompts; the others are smoothed.
    """

    steps: tuple[int, ...]
    values: tuple[tuple[float, ...], ...]
    held_out: bool

    def means(self) -> list[float]:
        """Return the means over seeds."""
        return [fmean(values) for values in zip(*self.values, strict=True)]

    def estimates(self) -> list[Estimate]:
        """Return the means over seeds with their standard errors.

        Every seed is smoothed by itself, so that the error is that of the smoothed mean; the mean is the same.
        """
        return [Estimate.of(values) for values in zip(*self.values, strict=True)]


def series_of(result: ArmResult, metric: str) -> Series | None:
    """Return an arm's curve of a metric; ``None`` where its runs do not have it."""
    if not _has(result, metric):
        return None
    name = HELD_OUT.get(metric, "")
    if name in result.held_out.values:
        return Series(result.held_out.steps, result.held_out.values[name], True)
    curves = result.curves[metric]
    count = min(len(values) for values in curves)
    kept = _thinned(count)
    smooth = [smoothed(values[:count]) for values in curves]
    return Series(
        tuple(place + 1 for place in kept), tuple(tuple(row[place] for place in kept) for row in smooth), False
    )


def metrics_drawn(results: Iterable[ArmResult]) -> dict[str, str]:
    """Return the metrics that at least one arm has a curve of, with their labels."""
    known = list(results)
    return {name: text for name, text in METRICS.items() if any(_has(result, name) for result in known)}


def _has(result: ArmResult, metric: str) -> bool:
    # A trainer of one's own may measure gold at every step.
    return HELD_OUT.get(metric) in result.held_out.values or (metric in result.curves and all(result.curves[metric]))


def curve_results(data: ReportData) -> list[ArmResult]:
    """Return the results of every arm that the figure draws."""
    searched = [trial.result for trial in data.trials_in("completed") if trial.result]
    return [result for _, result in arms_drawn(data)] + searched


def learning_curves(data: ReportData) -> Markup | None:
    """Return the curves of all metrics as JSON, those of J visible; ``None`` when no run has finished."""
    metrics = metrics_drawn(curve_results(data))
    if FIRST not in metrics:
        return None
    drawn, others = arms_drawn(data), [t.result for t in data.trials_in("completed") if t.result]
    colours, first, notes = arm_colours(data), leader(data), _notes(data)
    figure = go.Figure(layout=layout(height=460, hovermode="x unified"))
    for metric in metrics:
        figure.add_trace(_search_trace(others, metric))
        add_arms(figure, drawn, metric, colours, first, notes)
    for extra in (_stopped_trace(data), _tuned_level(data)):
        if extra is not None:
            figure.add_trace(extra)
    figure.update_xaxes(title_text="training steps")
    figure.update_yaxes(title_text=METRICS[FIRST])
    return embedded(figure)


def add_arms(
    figure: Any, drawn: Drawn, metric: str, colours: dict[str, str], first: str, notes: dict[str, str]
) -> None:
    """Add each arm's band and line of one metric to a figure.

    Args:
        figure: Plotly's; changed.
        drawn: Arms in the order of the legend.
        metric: One of ``METRICS``.
        colours: Of every arm drawn.
        first: The arm whose line is broad.
        notes: What is said of an arm where its value is pointed at.
    """
    curves = [(place, name, found) for place, (name, r) in enumerate(drawn, start=1) if (found := series_of(r, metric))]
    for _, name, series in curves:
        figure.add_trace(_band(name, series, metric, colours[name]))
    # Lines after all bands, the first arm last, so that nothing covers it.
    for place, name, series in reversed(curves):
        figure.add_trace(_line(name, series, metric, _stroke(name, colours[name], first), place, notes.get(name)))


def common(metric: str, first: str = FIRST) -> dict[str, Any]:
    """Return what all traces of one metric have in common: the page's buttons show those of one at a time."""
    return {"meta": {"metric": metric}, "visible": metric == first}


def _thinned(count: int) -> list[int]:
    """Return which of so many points are drawn: evenly spread, the last one among them."""
    stride = -(-count // MOST_POINTS)
    return list(range((count - 1) % stride, count, stride)) if count else []


def _short(values: Iterable[float]) -> list[float]:
    """Return values with as many digits as can be seen: the page holds thousands of them."""
    return [float(f"{value:.{DIGITS}g}") for value in values]


def _stroke(name: str, colour: str, first: str) -> dict[str, Any]:
    """Return how an arm's line is drawn: the winner's broad, those of the search's next best dashed."""
    dashed = "dash" if name.startswith(PLACE) else "solid"
    return {"color": colour, "width": 3 if name == first else 2, "dash": dashed}


def _notes(data: ReportData) -> dict[str, str]:
    """Return what is said of an arm where its value is pointed at: whence it was taken over."""
    return {} if data.confirmed else {trial.arm: trial.origin for trial in data.trials if trial.is_from_earlier_study}


def _line(name: str, series: Series, metric: str, stroke: dict[str, Any], place: int, note: str | None) -> Any:
    return go.Scatter(
        x=list(series.steps),
        y=_short(series.means()),
        mode="lines+markers" if series.held_out else "lines",
        marker={"size": 7, "color": stroke["color"]},
        name=escape(name),
        legendgroup=name,
        legendrank=place,
        line=stroke,
        hovertemplate="%{y:.3f}" + (f", {escape(note)}" if note else ""),
        **common(metric),
    )


def _band(name: str, series: Series, metric: str, colour: str) -> Any:
    steps, estimates = list(series.steps), series.estimates()
    upper = _short(estimate.mean + (estimate.error or 0.0) for estimate in estimates)
    lower = _short(estimate.mean - (estimate.error or 0.0) for estimate in estimates)
    return go.Scatter(
        x=steps + steps[::-1],
        y=upper + lower[::-1],
        mode="lines",
        fill="toself",
        fillcolor=transparent(colour, 0.16),
        line={"width": 0},
        legendgroup=name,
        showlegend=False,
        hoverinfo="skip",
        **common(metric),
    )


def _search_trace(results: Sequence[ArmResult], metric: str) -> Any:
    x: list[float | None] = []
    y: list[float | None] = []
    for series in filter(None, (series_of(result, metric) for result in results)):
        # A gap ends each trial's line: all of them are one trace, and one entry of the legend.
        x += [*series.steps, None]
        y += [*_short(series.means()), None]
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        name="every search trial",
        legendrank=LAST_RANK,
        line={"color": transparent(FAINT, 0.38), "width": 1},
        hoverinfo="skip",
        **common(metric),
    )


def _stopped_trace(data: ReportData) -> Any:
    """Return J of the trials that were stopped, as far as it was seen; ``None`` where none was."""
    x: list[float | None] = []
    y: list[float | None] = []
    for trial in data.trials_in("stopped"):
        seen = trial.stop.curve if trial.stop else ()
        kept = _thinned(len(seen))
        x += [*(place + 1 for place in kept), None]
        y += [*_short(seen[place] for place in kept), None]
    if not x:
        return None
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        name="stopped early",
        legendrank=LAST_RANK,
        line={"color": transparent(FAINT, 0.75), "width": 1, "dash": "dot"},
        hoverinfo="skip",
        **common(FIRST),
    )


def _tuned_level(data: ReportData) -> Any:
    """Return a level line where tuned sparse ended, against which the verdict counts steps."""
    rival = next((c for c in data.confirmed if data.verdict and c.arm.name == data.verdict.tuned_rival), None)
    series = series_of(rival.result, FIRST) if rival else None
    if series is None:
        return None
    return go.Scatter(
        x=[1, series.steps[-1]],
        y=[series.means()[-1]] * 2,
        mode="lines",
        name="where tuned sparse ends",
        legendrank=LAST_RANK - 1,
        line={"color": FAINT, "width": 1.5, "dash": "dot"},
        hoverinfo="skip",
        **common(FIRST),
    )
