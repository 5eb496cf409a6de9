"""The report's figures of what the model believes along the space's axes, and of how well it predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup

from pipeline.analysis.landscape import Believed, Landscape, Plane, Slice
from pipeline.report import words
from pipeline.report.figures.base import FAINT, embedded, layout, transparent
from pipeline.report.figures.triangle import MEAN, SIDE_PIXELS, WINNER_COLOUR, levels

CURVE = "#3f7fd9"
# Of a normal distribution, on either side of the mean.
IN_95_PERCENT = 1.96
SLICE_PIXELS = 270
# Of an axis: fewer places tell no scale, and steps that differ by less than this share are even.
LEAST_PLACES, EVEN = 3, 1e-6


def plane_figure(plane: Plane, label: str) -> Markup:
    """Return J over two axes as JSON; its uncertainty is said where one points."""
    width = len(plane.columns)
    lines = [plane.believed.means[start : start + width] for start in range(0, len(plane.believed.means), width)]
    errors = [plane.believed.deviations[start : start + width] for start in range(0, len(plane.believed.means), width)]
    at = levels(plane.believed.means)
    figure = go.Figure(layout=layout(height=SIDE_PIXELS, showlegend=False))
    figure.add_trace(
        go.Contour(
            x=plane.columns,
            y=plane.rows,
            z=[[round(value, 4) for value in line] for line in lines],
            customdata=[[round(value, 4) for value in line] for line in errors],
            colorscale=MEAN,
            contours={"start": at[0], "end": at[-1], "size": at[1] - at[0]},
            line={"width": 0},
            colorbar={"thickness": 11, "len": 0.8, "outlinewidth": 0, "title": {"text": label, "side": "top"}},
            hovertemplate="%{x:.3~g}, %{y:.3~g}<br>%{z:.3f} ± %{customdata:.3f}<extra></extra>",
        )
    )
    figure.update_xaxes(title_text=escape(plane.x), showgrid=False, type=scale(plane.columns))
    figure.update_yaxes(title_text=escape(plane.y), showgrid=False, type=scale(plane.rows))
    return embedded(figure)


def slice_figures(found: Landscape, label: str) -> list[tuple[str, Markup]]:
    """Return each axis's name and, as JSON, J along it; all share one range of J."""
    span = _span(found)
    return [(each.name, _slice(found, each, span, label)) for each in found.slices]


def _span(found: Landscape) -> list[float]:
    ends = [end for each in found.slices for pair in _interval(each.believed) for end in pair]
    ends += [value for value, _ in found.measured.values()]
    room = 0.05 * (max(ends) - min(ends) or 1.0)
    return [min(ends) - room, max(ends) + room]


def _interval(believed: Believed) -> list[tuple[float, float]]:
    pairs = zip(believed.means, believed.deviations, strict=True)
    return [(mean - IN_95_PERCENT * deviation, mean + IN_95_PERCENT * deviation) for mean, deviation in pairs]


def _slice(found: Landscape, each: Slice, span: list[float], label: str) -> Markup:
    figure = go.Figure(layout=layout(height=SLICE_PIXELS, showlegend=False, hovermode="closest"))
    interval = _interval(each.believed)
    positions, means = list(each.positions), list(each.believed.means)
    hover = "%{x}<br>%{y:.3f}<extra></extra>" if _is_choice(each) else "%{x:.3~g}<br>%{y:.3f}<extra></extra>"
    if _is_choice(each):
        bars = {"type": "data", "array": [high - mean for (_, high), mean in zip(interval, means, strict=True)]}
        marker = {"color": CURVE, "size": 9}
        figure.add_trace(
            go.Scatter(x=positions, y=means, mode="markers", error_y=bars, marker=marker, hovertemplate=hover)
        )
    else:
        outline = [high for _, high in interval] + [low for low, _ in reversed(interval)]
        figure.add_trace(
            go.Scatter(
                x=positions + positions[::-1],
                y=outline,
                fill="toself",
                fillcolor=transparent(CURVE, 0.18),
                line={"width": 0},
                hoverinfo="skip",
            )
        )
        line = {"color": CURVE, "width": 2.5}
        figure.add_trace(go.Scatter(x=positions, y=means, mode="lines", line=line, hovertemplate=hover))
        figure.add_vline(x=each.reference, line={"color": WINNER_COLOUR, "width": 1.5, "dash": "dot"})
        figure.update_xaxes(type=scale([float(place) for place in positions]))
    figure.add_trace(_points(found, each))
    figure.update_xaxes(title_text=escape(each.name))
    figure.update_yaxes(title_text=label, range=span)
    return embedded(figure)


def scale(places: Sequence[float]) -> str:
    """Return the scale of an axis on which places stand evenly: ``log`` or ``linear``."""
    if len(places) < LEAST_PLACES or min(places) <= 0:
        return "linear"
    by_ratio = [after / before for before, after in pairwise(places)]
    by_difference = [after - before for before, after in pairwise(places)]
    is_log = _unevenness(by_ratio) < EVEN < _unevenness(by_difference)
    return "log" if is_log else "linear"


def _unevenness(steps: Sequence[float]) -> float:
    return max(steps) / min(steps) - 1 if min(steps) > 0 else math.inf


def _is_choice(each: Slice) -> bool:
    return any(isinstance(place, str) for place in each.positions)


def _points(found: Landscape, each: Slice) -> Any:
    shown = [(index, each.trials[index], found.measured[index]) for index in each.trials if index in found.measured]
    best = [index == found.reference_trial for index, _, _ in shown]
    bars = {"type": "data", "color": FAINT, "thickness": 1.2, "width": 2}
    return go.Scatter(
        x=[place for _, place, _ in shown],
        y=[value for _, _, (value, _) in shown],
        mode="markers",
        marker={"color": [WINNER_COLOUR if star else FAINT for star in best], "size": 7},
        error_y={**bars, "array": [error or 0.0 for _, _, (_, error) in shown]},
        text=[
            f"trial {index}: {escape(found.tried[index].describe())}<br>{words.spread(*measured)}"
            for index, _, measured in shown
        ],
        hoverinfo="text",
    )


def prediction_figure(found: Landscape, label: str) -> Markup | None:
    """Return, as JSON, what each trial measured against what the model of all others says; ``None`` without any."""
    shown = [(index, found.measured[index], found.left_out[index]) for index in found.left_out]
    if not shown:
        return None
    ends = [end for _, (value, _), (mean, deviation) in shown for end in (value, mean - deviation, mean + deviation)]
    room = 0.06 * (max(ends) - min(ends) or 1.0)
    span = [min(ends) - room, max(ends) + room]
    figure = go.Figure(layout=layout(height=SIDE_PIXELS, showlegend=False, hovermode="closest"))
    line = {"color": FAINT, "width": 1.5, "dash": "dot"}
    figure.add_trace(go.Scatter(x=span, y=span, mode="lines", line=line, hoverinfo="skip"))
    bars = {"type": "data", "thickness": 1.2, "width": 2, "color": transparent(CURVE, 0.7)}
    figure.add_trace(
        go.Scatter(
            x=[value for _, (value, _), _ in shown],
            y=[mean for _, _, (mean, _) in shown],
            mode="markers",
            marker={"color": CURVE, "size": 8},
            error_x={**bars, "array": [error or 0.0 for _, (_, error), _ in shown]},
            error_y={**bars, "array": [IN_95_PERCENT * deviation for _, _, (_, deviation) in shown]},
            text=[
                f"trial {index}<br>measured {words.spread(*measured)}<br>predicted {words.spread(mean, deviation)}"
                for index, measured, (mean, deviation) in shown
            ],
            hoverinfo="text",
        )
    )
    figure.update_xaxes(title_text=f"{label} measured", range=span)
    figure.update_yaxes(title_text=f"{label} predicted without the trial", range=span)
    return embedded(figure)


def prediction_words(found: Landscape) -> str:
    """Return in one sentence how well the model predicts trials that it has not seen."""
    pairs = [(found.measured[index][0], *found.left_out[index]) for index in found.left_out]
    inside = sum(abs(value - mean) <= IN_95_PERCENT * deviation for value, mean, deviation in pairs)
    centre = sum(value for value, _, _ in pairs) / len(pairs)
    total = sum((value - centre) ** 2 for value, _, _ in pairs)
    rest = sum((value - mean) ** 2 for value, mean, _ in pairs)
    explained = f"R² {words.number(1 - rest / total, 2)}; " if total > 0 else ""
    return f"{explained}{inside} of {len(pairs)} measured values lie within their 95 % intervals"
