"""The report's figures of what was trained: learning curves, and the paired differences as a forest plot.

Colours of data are fixed and hold on white and on black; whatever the page's theme decides (text, grid, background)
is left to the page's script.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from pipeline.confirmation import SPARSE, TUNED, UNIFORM, WINNER, Difference, Verdict, smoothed_mean_curve
from pipeline.report.data import ArmResult, Estimate, ReportData
from pipeline.report.words import signed

METRICS = {"objective": "J", "reward": "reward", "kl_nats": "KL, nats"}
ARM_COLOURS = {WINNER: "#e0552b", SPARSE: "#7b8798", TUNED[0]: "#3f7fd9", TUNED[1]: "#8b67d3", UNIFORM: "#2c9c73"}
# As many as the arms that may be confirmed beside the winner and its rivals, after those that these have.
OTHER_COLOURS = (
    *("#3f7fd9", "#8b67d3", "#2c9c73", "#c08a1e", "#c4538f", "#2796ab", "#7b8798"),
    *("#7d9a2e", "#a5694a", "#5a55e0", "#e08fb0", "#9b2f45", "#4fb6a0"),
)
GAIN, LOSS, UNDECIDED, FAINT = "#2c9c73", "#d64550", "#7b8798", "#8a8f98"
ROW_PIXELS = 62
# In rows: so far under its row's line that both are seen.
BOOTSTRAP_DROP = 0.16
LAST_RANK = 1000
# What the study calls the arms that it confirms beside the winner.
RUNNER_UP = "place "
Drawn = list[tuple[str, ArmResult]]


def plotly_script() -> Markup:
    """Return plotly.js itself, for the page's one inline copy."""
    # The library's own text, and nobody else's.
    return Markup(get_plotlyjs())  # nosec B704


def arms_drawn(data: ReportData) -> Drawn:
    """Return the arms whose curves are coloured: the confirmed ones, or else the search's winner and baselines.

    The baselines of an earlier study's trials are this study's, too.
    """
    if data.confirmed:
        return [(confirmed.arm.name, confirmed.result) for confirmed in data.confirmed]
    winner = data.winner.name if data.winner else ""
    shown = [t for t in data.ranked if t.result and (t.arm == winner or t.is_baseline)]
    shown.sort(key=lambda trial: trial.arm != winner)
    return [(trial.arm, trial.result) for trial in shown if trial.result]


def leader(data: ReportData) -> str:
    """Return the name of the arm that the curves put forward; empty before there is a winner."""
    return WINNER if data.confirmed else data.winner.name if data.winner else ""


def arm_colours(data: ReportData) -> dict[str, str]:
    """Return a colour for each arm drawn; the winner and what is always run keep theirs in every report."""
    names = [name for name, _ in arms_drawn(data)]
    colours = {name: ARM_COLOURS[name] for name in names if name in ARM_COLOURS}
    if leader(data) in names:
        colours[leader(data)] = ARM_COLOURS[WINNER]
    free = [colour for colour in OTHER_COLOURS if colour not in colours.values()] or list(OTHER_COLOURS)
    others = [name for name in names if name not in colours]
    return colours | {name: free[place % len(free)] for place, name in enumerate(others)}


def learning_curves(data: ReportData) -> Markup | None:
    """Return the curves of all metrics as JSON, those of J visible; ``None`` when no run has finished."""
    drawn = [(name, result) for name, result in arms_drawn(data) if _is_drawable(result)]
    others = [t.result for t in data.trials_in("completed") if t.result and _is_drawable(t.result)]
    if not drawn and not others:
        return None
    colours, first = arm_colours(data), leader(data)
    figure = go.Figure(layout=layout(height=460, hovermode="x unified"))
    notes = _notes(data)
    for metric in METRICS:
        figure.add_trace(_search_trace(others, metric))
        for name, result in drawn:
            figure.add_trace(_band(name, result, metric, colours[name]))
        # Lines after all bands, winner last, so that nothing covers them.
        for place, (name, result) in reversed(list(enumerate(drawn, start=1))):
            figure.add_trace(_line(name, result, metric, _stroke(name, colours[name], first), place, notes.get(name)))
    for extra in (_stopped_trace(data), _tuned_level(data)):
        if extra is not None:
            figure.add_trace(extra)
    figure.update_xaxes(title_text="training steps")
    figure.update_yaxes(title_text=METRICS["objective"])
    return embedded(figure)


def smoothed_with_error(series: Sequence[Sequence[float]]) -> list[Estimate]:
    """Return, for each step, the mean over seeds of their smoothed curves, with its standard error.

    Every seed is smoothed by itself, so that the error is that of the smoothed mean; the mean is the same.
    """
    steps = min(len(values) for values in series)
    smooth = [smoothed_mean_curve([values[:steps]]) for values in series]
    return [Estimate.of(values) for values in zip(*smooth, strict=True)]


def forest(verdict: Verdict) -> Markup | None:
    """Return the paired differences as JSON, first rival on top; ``None`` when there is none."""
    if not verdict.differences:
        return None
    rows = list(reversed(verdict.differences))
    figure = go.Figure(layout=layout(height=90 + ROW_PIXELS * len(rows), showlegend=False))
    for place, difference in enumerate(rows):
        if _is_bounded(difference):
            figure.add_trace(_bootstrap(place, difference))
        figure.add_trace(_interval(place, difference))
        # Above its interval, where a phone has room: the rival's name on the left, the numbers on the right.
        for side, anchor, text in ((0, "left", _rival(difference)), (1, "right", _numbers(difference))):
            figure.add_annotation(
                x=side, xref="paper", xanchor=anchor, y=place, yshift=19, showarrow=False, text=text, font={"size": 12}
            )
    figure.update_xaxes(title_text="J of the winner minus J of the rival", zeroline=True, zerolinewidth=1.5)
    figure.update_xaxes(range=_reach(rows))
    figure.update_yaxes(visible=False, range=[-0.5, len(rows) - 0.25], fixedrange=True)
    return embedded(figure)


def _is_drawable(result: ArmResult) -> bool:
    return all(len(values) > 0 for values in result.curves["objective"])


def embedded(figure: Any) -> Markup:
    """Return a figure as JSON for a script element."""
    # A name inside a figure must not be able to close the script element that holds it.
    return htmlsafe_json_dumps(figure, dumps=lambda shown: str(shown.to_json()))


def layout(**changes: Any) -> Any:
    """Return what all figures have in common, with changes."""
    values: dict[str, Any] = {
        "template": "none",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 8, "r": 8, "t": 12, "b": 8},
        # Dragging over a figure scrolls the page, which matters on a phone.
        "dragmode": False,
        "legend": {"orientation": "h", "x": 0, "y": 1.03, "yanchor": "bottom", "traceorder": "normal"},
        "xaxis": {"automargin": True, "zeroline": False, "ticks": "", "title": {"font": {"size": 13}}},
        "yaxis": {"automargin": True, "zeroline": False, "ticks": "", "nticks": 7, "title": {"font": {"size": 13}}},
    }
    return go.Layout(**{**values, **changes})


def _common(metric: str) -> dict[str, Any]:
    return {"meta": {"metric": metric}, "visible": metric == "objective", "mode": "lines"}


def _stroke(name: str, colour: str, first: str) -> dict[str, Any]:
    """Return how an arm's line is drawn: the winner's broad, those of the search's next best dashed."""
    dashed = "dash" if name.startswith(RUNNER_UP) else "solid"
    return {"color": colour, "width": 3 if name == first else 2, "dash": dashed}


def _notes(data: ReportData) -> dict[str, str]:
    """Return what is said of an arm where its value is pointed at: whence it was taken over."""
    return {} if data.confirmed else {trial.arm: trial.origin for trial in data.trials if trial.is_taken_over}


def _line(name: str, result: ArmResult, metric: str, stroke: dict[str, Any], place: int, note: str | None) -> Any:
    means = [estimate.mean for estimate in smoothed_with_error(result.curves[metric])]
    return go.Scatter(
        x=list(range(1, len(means) + 1)),
        y=means,
        name=escape(name),
        legendgroup=name,
        legendrank=place,
        line=stroke,
        hovertemplate="%{y:.3f}" + (f", {escape(note)}" if note else ""),
        **_common(metric),
    )


def _band(name: str, result: ArmResult, metric: str, colour: str) -> Any:
    estimates = smoothed_with_error(result.curves[metric])
    steps = list(range(1, len(estimates) + 1))
    upper = [estimate.mean + (estimate.error or 0.0) for estimate in estimates]
    lower = [estimate.mean - (estimate.error or 0.0) for estimate in estimates]
    return go.Scatter(
        x=steps + steps[::-1],
        y=upper + lower[::-1],
        fill="toself",
        fillcolor=transparent(colour, 0.16),
        line={"width": 0},
        legendgroup=name,
        showlegend=False,
        hoverinfo="skip",
        **_common(metric),
    )


def _search_trace(results: Sequence[ArmResult], metric: str) -> Any:
    x: list[float | None] = []
    y: list[float | None] = []
    for result in results:
        means = [estimate.mean for estimate in smoothed_with_error(result.curves[metric])]
        # A gap ends each trial's line: all of them are one trace, and one entry of the legend.
        x += [*range(1, len(means) + 1), None]
        y += [*means, None]
    return go.Scatter(
        x=x,
        y=y,
        name="every search trial",
        legendrank=LAST_RANK,
        line={"color": transparent(FAINT, 0.38), "width": 1},
        hoverinfo="skip",
        **_common(metric),
    )


def _stopped_trace(data: ReportData) -> Any:
    """Return J of the trials that were stopped, as far as it was seen; ``None`` where none was."""
    x: list[float | None] = []
    y: list[float | None] = []
    for trial in data.trials_in("stopped"):
        seen = trial.stop.curve if trial.stop else ()
        x += [*range(1, len(seen) + 1), None]
        y += [*seen, None]
    if not x:
        return None
    return go.Scatter(
        x=x,
        y=y,
        name="stopped early",
        legendrank=LAST_RANK,
        line={"color": transparent(FAINT, 0.75), "width": 1, "dash": "dot"},
        hoverinfo="skip",
        **_common("objective"),
    )


def _tuned_level(data: ReportData) -> Any:
    """Return a level line where tuned sparse ended, against which the verdict counts steps."""
    rival = next((c for c in data.confirmed if data.verdict and c.arm.name == data.verdict.tuned_rival), None)
    if rival is None or not _is_drawable(rival.result):
        return None
    estimates = smoothed_with_error(rival.result.curves["objective"])
    return go.Scatter(
        x=[1, len(estimates)],
        y=[estimates[-1].mean] * 2,
        name="where tuned sparse ends",
        legendrank=LAST_RANK - 1,
        line={"color": FAINT, "width": 1.5, "dash": "dot"},
        hoverinfo="skip",
        **_common("objective"),
    )


def _colour(difference: Difference) -> str:
    return GAIN if difference.is_gain else LOSS if difference.is_loss else UNDECIDED


def _bootstrap(place: int, difference: Difference) -> Any:
    """Return the bootstrap's interval, a thin line under the other one."""
    return go.Scatter(
        x=[difference.bootstrap_low, difference.bootstrap_high],
        y=[place - BOOTSTRAP_DROP] * 2,
        mode="lines",
        line={"color": transparent(_colour(difference), 0.7), "width": 1.5},
        hoverinfo="skip",
    )


def _interval(place: int, difference: Difference) -> Any:
    colour = _colour(difference)
    bounds = {"type": "data", "symmetric": False, "thickness": 2.5, "width": 7, "color": colour}
    if _is_bounded(difference):
        bounds |= {"array": [difference.high - difference.mean], "arrayminus": [difference.mean - difference.low]}
    return go.Scatter(
        x=[difference.mean],
        y=[place],
        mode="markers",
        marker={"color": colour, "size": 12, "symbol": "diamond"},
        error_x=bounds,
        hovertemplate=f"{_rival(difference)} {_numbers(difference)}{_bootstrap_numbers(difference)}<extra></extra>",
    )


def _is_bounded(difference: Difference) -> bool:
    return math.isfinite(difference.low) and math.isfinite(difference.high)


def _rival(difference: Difference) -> str:
    return f"<b>{escape(difference.rival)}</b>"


def _numbers(difference: Difference) -> str:
    if not _is_bounded(difference):
        return f"{signed(difference.mean)}, one pair"
    return f"{signed(difference.mean)} [{signed(difference.low)}, {signed(difference.high)}]"


def _bootstrap_numbers(difference: Difference) -> str:
    if not _is_bounded(difference):
        return ""
    return f"<br>bootstrap [{signed(difference.bootstrap_low)}, {signed(difference.bootstrap_high)}]"


def _reach(differences: Sequence[Difference]) -> list[float]:
    """Return an axis range that holds every finite bound and 0, with room at both ends."""
    bounds = [0.0]
    for difference in differences:
        found = (difference.low, difference.mean, difference.high, difference.bootstrap_low, difference.bootstrap_high)
        bounds += [value for value in found if math.isfinite(value)]
    room = 0.08 * (max(bounds) - min(bounds) or 1.0)
    return [min(bounds) - room, max(bounds) + room]


def transparent(colour: str, alpha: float) -> str:
    """Return a colour of six hexadecimal digits as one that lets the page through."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"
