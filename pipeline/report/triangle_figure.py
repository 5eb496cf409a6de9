"""The report's triangles: what the model believes of the mixes of three methods, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup
from plotly.colors import sample_colorscale

from pipeline.landscape import DIVISIONS, Face, Landscape
from pipeline.report import words
from pipeline.report.contours import Band, bands, levels
from pipeline.report.figures import ARM_COLOURS, FAINT, embedded, layout, transparent
from shaping.shape import Shape

MEAN, DEVIATION = "Viridis", [[0.0, "#e3ddf2"], [1.0, "#4a2d80"]]
WINNER_COLOUR = ARM_COLOURS["winner"]
# A trial that gives so much of its reward to three methods stands on their triangle.
ON_FACE = 0.995
SIDE_PIXELS = 400


def triangle_figures(found: Landscape, face: Face, label: str) -> tuple[Markup, Markup]:
    """Return the triangle's mean with the trials on it, and its uncertainty, as JSON."""
    return _triangle(found, face, face.believed.means, MEAN, label), _triangle(
        found, face, face.believed.deviations, DEVIATION, f"± {label}"
    )


def _triangle(found: Landscape, face: Face, values: Sequence[float], scale: Any, label: str) -> Markup:
    at = levels(values)
    cut = bands(DIVISIONS, values, at)
    colours = sample_colorscale(scale, [(place + 0.5) / len(cut) for place in range(len(cut))])
    figure = go.Figure(layout=layout(height=SIDE_PIXELS, showlegend=False, margin={"l": 34, "r": 8, "t": 46, "b": 40}))
    for band, colour in zip(cut, colours, strict=True):
        figure.add_trace(_band(band, colour))
    figure.add_trace(_readings(face, at, scale, label))
    if values is face.believed.means:
        figure.add_trace(_tried(found, face, (at[0], at[-1])))
        figure.add_trace(_next(found, face))
    figure.update_layout(ternary=_corners(face))
    return embedded(figure)


def _corners(face: Face) -> dict[str, Any]:
    def side(name: str) -> dict[str, Any]:
        return {
            "title": {"text": f"<b>{escape(name)}</b>", "font": {"size": 13}},
            "tickvals": [0.25, 0.5, 0.75],
            "tickformat": ".0%",
            "tickfont": {"size": 10},
            "gridcolor": transparent(FAINT, 0.35),
            "linecolor": FAINT,
            "layer": "above traces",
        }

    a, b, c = map(side, face.methods)
    return {"sum": 1, "bgcolor": "rgba(0,0,0,0)", "aaxis": a, "baxis": b, "caxis": c}


def _band(band: Band, colour: str) -> Any:
    a: list[float | None] = []
    b: list[float | None] = []
    for polygon in band.polygons:
        # Closed, and parted from the next one by a gap: all of a level are one trace.
        for x, y, _ in (*polygon, polygon[0]):
            a.append(round(x, 4))
            b.append(round(y, 4))
        a.append(None)
        b.append(None)
    c = [None if x is None or y is None else round(1 - x - y, 4) for x, y in zip(a, b, strict=True)]
    # Lines of the same colour close the hairs between neighbours.
    line = {"width": 0.8, "color": colour}
    return go.Scatterternary(a=a, b=b, c=c, mode="lines", fill="toself", fillcolor=colour, line=line, hoverinfo="skip")


def _readings(face: Face, at: Sequence[float], scale: Any, label: str) -> Any:
    """Return invisible points that say their numbers, and the colours' key."""
    a, b, c = face.methods
    texts = [
        f"{share[0]:.2f} {escape(a)}, {share[1]:.2f} {escape(b)}, {share[2]:.2f} {escape(c)}"
        f"<br>{words.spread(mean, deviation)}"
        for share, mean, deviation in zip(face.shares, face.believed.means, face.believed.deviations, strict=True)
    ]
    step = 1 / (len(at) - 1)
    colours = sample_colorscale(scale, [(place + 0.5) * step for place in range(len(at) - 1)])
    # Steps in place of a run of colours, as on the triangle.
    key = [[edge, colour] for i, colour in enumerate(colours) for edge in (i * step, (i + 1) * step)]
    bar = {"thickness": 11, "len": 0.8, "outlinewidth": 0, "tickvals": list(at), "tickfont": {"size": 11}}
    return go.Scatterternary(
        a=[share[0] for share in face.shares],
        b=[share[1] for share in face.shares],
        c=[share[2] for share in face.shares],
        mode="markers",
        marker={
            "size": 11,
            "opacity": 0,
            "color": [face.believed.means[0]] * len(face.shares),
            "colorscale": key,
            "cmin": at[0],
            "cmax": at[-1],
            "colorbar": {**bar, "title": {"text": label, "side": "top"}},
        },
        text=texts,
        hoverinfo="text",
    )


def _on(face: Face, shape: Shape) -> tuple[float, float, float]:
    a, b, c = (shape.weights.get(method, 0.0) for method in face.methods)
    return a, b, c


def _tried(found: Landscape, face: Face, span: tuple[float, float]) -> Any:
    """Return the trials, as far as they have anything to do with the triangle, in the colours of what they found."""
    shown = [
        (index, _on(face, shape), found.measured[index])
        for index, shape in found.shapes.items()
        if index in found.measured and sum(_on(face, shape)) > 0.5
    ]
    whole = [sum(shares) >= ON_FACE for _, shares, _ in shown]
    texts = [
        f"trial {index}: {escape(found.shapes[index].describe())}<br>{words.spread(*measured)}"
        for index, _, measured in shown
    ]
    # A star off the triangle would look like a place that nobody put first.
    best = [index == found.reference_trial and each for (index, _, _), each in zip(shown, whole, strict=True)]
    return go.Scatterternary(
        a=[shares[0] for _, shares, _ in shown],
        b=[shares[1] for _, shares, _ in shown],
        c=[shares[2] for _, shares, _ in shown],
        mode="markers",
        marker={
            "color": [measured[0] for _, _, measured in shown],
            "colorscale": MEAN,
            "cmin": span[0],
            "cmax": span[1],
            "opacity": [1.0 if each else 0.75 for each in whole],
            "size": [16 if star else 12 if each else 7 for star, each in zip(best, whole, strict=True)],
            "symbol": ["star" if star else "circle" for star in best],
            "line": {"width": 1.6, "color": [WINNER_COLOUR if star else "#ffffff" for star in best]},
        },
        cliponaxis=False,
        text=texts,
        hoverinfo="text",
    )


def _next(found: Landscape, face: Face) -> Any:
    shown = [each for each in found.proposals if sum(_on(face, each.shape)) > 0.5]
    return go.Scatterternary(
        a=[_on(face, each.shape)[0] for each in shown],
        b=[_on(face, each.shape)[1] for each in shown],
        c=[_on(face, each.shape)[2] for each in shown],
        mode="markers",
        marker={"symbol": "x-thin", "size": 10, "line": {"width": 2.4, "color": "#ffffff"}},
        cliponaxis=False,
        text=[f"next: {escape(each.shape.describe())}<br>{words.spread(each.mean, each.deviation)}" for each in shown],
        hoverinfo="text",
    )
