"""The report's triangles: what the model believes of the mixes of three methods, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any, TypeAlias

import plotly.graph_objects as go
from markupsafe import Markup
from plotly.colors import sample_colorscale

from pipeline.analysis.landscape import DIVISIONS, Face, Landscape
from pipeline.report import words
from pipeline.report.figures.base import ARM_COLOURS, FAINT, embedded, layout, transparent
from shaping.shape import Shape

MEAN, DEVIATION = "Viridis", [[0.0, "#e3ddf2"], [1.0, "#4a2d80"]]
WINNER_COLOUR = ARM_COLOURS["winner"]
# A trial that gives so much of its weight to three methods stands on their triangle; one with less is not shown.
ON_FACE, SHOWN = 0.995, 0.5
SIDE_PIXELS = 400
HEIGHT = math.sqrt(3) / 2
# Of a side: nearer to a trial, the trial is what one points at.
NEAR = 0.03
Shares: TypeAlias = tuple[float, float, float]
TOP, LEFT, RIGHT = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def triangle_figures(found: Landscape, face: Face, label: str) -> tuple[Markup, Markup]:
    """Return the triangle's mean with the trials on it, and its uncertainty, as JSON.

    Drawn on plain axes: Plotly's own triangles do not answer where one points at their edges.
    """
    mean = _triangle(face, face.believed.means, MEAN)
    for trace in (
        _readings(found, face),
        _tried(found, face),
        _next(found, face),
        _key(face.believed.means, MEAN, label),
    ):
        mean.add_trace(trace)
    deviation = _triangle(face, face.believed.deviations, DEVIATION)
    for trace in (_readings(None, face), _key(face.believed.deviations, DEVIATION, f"± {label}")):
        deviation.add_trace(trace)
    return embedded(mean), embedded(deviation)


def _xy(shares: Shares) -> tuple[float, float]:
    """Return where a mix stands: the first method's corner above, the second's on the left."""
    a, b, c = shares
    total = a + b + c
    return round((c + a / 2) / total, 4), round(a / total * HEIGHT, 4)


def _triangle(face: Face, values: Sequence[float], scale: Any) -> Any:
    """Return the bands, the lines at a quarter, a half and three quarters, and the corners' names."""
    figure = go.Figure(layout=layout(height=SIDE_PIXELS, showlegend=False, hovermode="closest"))
    cut = bands(DIVISIONS, values, levels(values))
    for band, colour in zip(cut, sample_colorscale(scale, _middles(len(cut))), strict=True):
        figure.add_trace(_band(band, colour))
    figure.add_trace(_lines())
    hidden = {"visible": False, "fixedrange": True}
    figure.update_xaxes(range=[-0.08, 1.08], constrain="domain", **hidden)
    figure.update_yaxes(range=[-0.1, 0.97], scaleanchor="x", constrain="domain", **hidden)
    for corner, name, side in zip((TOP, LEFT, RIGHT), face.methods, ("center", "left", "right"), strict=True):
        x, y = _xy(corner)
        place = {"xanchor": side, "yanchor": "bottom" if corner == TOP else "top", "yshift": 9 if corner == TOP else -9}
        x = {"left": -0.08, "right": 1.08}.get(side, x)
        figure.add_annotation(x=x, y=y, text=f"<b>{escape(name)}</b>", showarrow=False, **place)
    return figure


def _middles(count: int) -> list[float]:
    return [(place + 0.5) / count for place in range(count)]


def _band(band: Band, colour: str) -> Any:
    x: list[float | None] = []
    y: list[float | None] = []
    for polygon in band.polygons:
        # Closed, and parted from the next one by a gap: all of a level are one trace.
        for place in map(_xy, (*polygon, polygon[0])):
            x.append(place[0])
            y.append(place[1])
        x.append(None)
        y.append(None)
    # Lines of the same colour close the hairs between neighbours.
    line = {"width": 0.8, "color": colour}
    return go.Scatter(x=x, y=y, mode="lines", fill="toself", fillcolor=colour, line=line, hoverinfo="skip")


def _lines() -> Any:
    ends: list[tuple[Shares, Shares]] = [(TOP, LEFT), (LEFT, RIGHT), (RIGHT, TOP)]
    for part in (0.25, 0.5, 0.75):
        rest = 1 - part
        ends += [((part, rest, 0.0), (part, 0.0, rest)), ((rest, part, 0.0), (0.0, part, rest))]
        ends += [((rest, 0.0, part), (0.0, rest, part))]
    places = [(_xy(one), _xy(other)) for one, other in ends]
    return go.Scatter(
        x=[x for (x1, _), (x2, _) in places for x in (x1, x2, None)],
        y=[y for (_, y1), (_, y2) in places for y in (y1, y2, None)],
        mode="lines",
        line={"width": 1, "color": transparent(FAINT, 0.45)},
        hoverinfo="skip",
    )


def _readings(found: Landscape | None, face: Face) -> Any:
    """Return points that are not seen and say their numbers, but none where a trial stands."""
    tried = found.tried.values() if found else ()
    taken = [_xy(_on(face, each.shape)) for each in tried if _is_shown(face, each.shape)]
    shown = [
        (_xy(shares), shares, mean, deviation)
        for shares, mean, deviation in zip(face.shares, face.believed.means, face.believed.deviations, strict=True)
        if all(math.dist(_xy(shares), other) > NEAR for other in taken)
    ]
    a, b, c = map(escape, face.methods)
    return go.Scatter(
        x=[x for (x, _), *_ in shown],
        y=[y for (_, y), *_ in shown],
        mode="markers",
        marker={"size": 11, "opacity": 0},
        text=[
            f"{x:.2f} {a}, {y:.2f} {b}, {z:.2f} {c}<br>{words.spread(mean, deviation)}"
            for _, (x, y, z), mean, deviation in shown
        ],
        hoverinfo="text",
    )


def _key(values: Sequence[float], scale: Any, label: str) -> Any:
    """Return the colours' key: in steps, as on the triangle."""
    at = levels(values)
    step = 1 / (len(at) - 1)
    colours = sample_colorscale(scale, _middles(len(at) - 1))
    bar = {"thickness": 11, "len": 0.8, "outlinewidth": 0, "tickvals": at, "tickfont": {"size": 11}}
    marker = {
        "color": [at[0]],
        "opacity": 0,
        "colorscale": [[edge, colour] for i, colour in enumerate(colours) for edge in (i * step, (i + 1) * step)],
        "cmin": at[0],
        "cmax": at[-1],
        "colorbar": {**bar, "title": {"text": label, "side": "top"}},
    }
    return go.Scatter(x=[0.5], y=[0.3], mode="markers", marker=marker, hoverinfo="skip")


def _on(face: Face, shape: Shape) -> Shares:
    a, b, c = (shape.weights.get(method, 0.0) for method in face.methods)
    return a, b, c


def _is_shown(face: Face, shape: Shape) -> bool:
    return sum(_on(face, shape)) > SHOWN


def _tried(found: Landscape, face: Face) -> Any:
    """Return the trials, as far as they have to do with the triangle, in the colours of what they found."""
    shown = [
        (index, each, found.measured[index])
        for index, each in found.tried.items()
        if index in found.measured and _is_shown(face, each.shape)
    ]
    whole = [sum(_on(face, tried.shape)) >= ON_FACE for _, tried, _ in shown]
    # A star off the triangle would look like a place that nobody put first.
    best = [index == found.reference_trial and each for (index, _, _), each in zip(shown, whole, strict=True)]
    at = levels(face.believed.means)
    return go.Scatter(
        x=[_xy(_on(face, tried.shape))[0] for _, tried, _ in shown],
        y=[_xy(_on(face, tried.shape))[1] for _, tried, _ in shown],
        mode="markers",
        marker={
            "color": [mean for _, _, (mean, _) in shown],
            "colorscale": MEAN,
            "cmin": at[0],
            "cmax": at[-1],
            "opacity": 1,
            "size": [17 if star else 12 if each else 7 for star, each in zip(best, whole, strict=True)],
            "symbol": ["star" if star else "circle" for star in best],
            "line": {"width": 1.6, "color": [WINNER_COLOUR if star else "#ffffff" for star in best]},
        },
        text=[
            f"trial {index}: {escape(tried.describe())}<br>{words.spread(*measured)}"
            for index, tried, measured in shown
        ],
        hoverinfo="text",
    )


def _next(found: Landscape, face: Face) -> Any:
    shown = [each for each in found.proposals if _is_shown(face, each.candidate.shape)]
    return go.Scatter(
        x=[_xy(_on(face, each.candidate.shape))[0] for each in shown],
        y=[_xy(_on(face, each.candidate.shape))[1] for each in shown],
        mode="markers",
        marker={"symbol": "x-thin", "size": 10, "line": {"width": 2.4, "color": "#ffffff"}},
        text=[
            f"next: {escape(each.candidate.describe())}<br>{words.spread(each.mean, each.deviation)}" for each in shown
        ],
        hoverinfo="text",
    )


Vertex: TypeAlias = tuple[float, float, float]
Polygon: TypeAlias = list[Vertex]


@dataclass(frozen=True)
class Band:
    """Where the surface lies between two levels.

    Attributes:
        low: Lower level.
        high: Upper level.
        polygons: Each a list of shares of the three corners; they touch and do not overlap.
    """

    low: float
    high: float
    polygons: tuple[tuple[Vertex, ...], ...]


def levels(values: Sequence[float], most: int = 9) -> list[float]:
    """Return round levels that hold all values, evenly 1, 2 or 5 times a power of ten apart."""
    low, high = min(values), max(values)
    least = (high - low) / most or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(least))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= least * (1 - 1e-9))
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def bands(divisions: int, values: Sequence[float], at: Sequence[float]) -> list[Band]:
    """Return the bands between neighbouring levels.

    Args:
        divisions: Steps along each side of the triangle.
        values: At the points ``(i, j, divisions - i - j) / divisions``, by ``i`` and then by ``j``.
        at: Levels, rising; they hold all values.
    """
    triangles = _triangles(divisions, values)
    found = []
    for low, high in pairwise(at):
        pieces = [_clipped(triangle, low, high) for triangle in triangles]
        found.append(Band(low, high, tuple(tuple(v[:3] for v in piece) for piece in pieces if len(piece) > 2)))
    return found


def _triangles(divisions: int, values: Sequence[float]) -> list[list[tuple[float, float, float, float]]]:
    """Return the small triangles, each of three vertices: shares and value."""
    places = [(i, j) for i in range(divisions + 1) for j in range(divisions + 1 - i)]
    points = {
        (i, j): (i / divisions, j / divisions, (divisions - i - j) / divisions, value)
        for (i, j), value in zip(places, values, strict=True)
    }
    up = [((i, j), (i + 1, j), (i, j + 1)) for i, j in places if i + j < divisions]
    down = [((i + 1, j), (i + 1, j + 1), (i, j + 1)) for i, j in places if i + j < divisions - 1]
    return [[points[place] for place in corners] for corners in (*up, *down)]


def _clipped(
    triangle: list[tuple[float, float, float, float]], low: float, high: float
) -> list[tuple[float, float, float, float]]:
    """Return the part of a triangle between two levels, by clipping it at the one and then at the other."""
    return _cut(_cut(triangle, lambda value: value - low), lambda value: high - value)


def _cut(
    polygon: list[tuple[float, float, float, float]], inside: Callable[[float], float]
) -> list[tuple[float, float, float, float]]:
    """Return the part of a convex polygon where a linear function of its values is not negative."""
    kept: list[tuple[float, float, float, float]] = []
    for one, other in zip(polygon, [*polygon[1:], *polygon[:1]], strict=True):
        here, there = inside(one[3]), inside(other[3])
        if here >= 0:
            kept.append(one)
        if here * there < 0:
            part = here / (here - there)
            a, b, c, value = (x + part * (y - x) for x, y in zip(one, other, strict=True))
            kept.append((a, b, c, value))
    return kept
