"""The report's figure of the verdict: the winner's paired differences to its rivals as a forest plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup

from pipeline.report.figures.base import embedded, layout, transparent
from pipeline.report.words import signed
from pipeline.study.verdict import Difference, Verdict

GAIN, LOSS, UNDECIDED = "#2c9c73", "#d64550", "#7b8798"
ROW_PIXELS = 62
# On a phone a long name and its numbers have a line each.
NARROW_ROW_PIXELS, NARROW_RISE = 84, 18
# In rows: so far under its row's line that both are seen.
BOOTSTRAP_DROP = 0.16


def forest(verdict: Verdict) -> Markup | None:
    """Return the paired differences as JSON, first rival on top; ``None`` when there is none."""
    if not verdict.differences:
        return None
    rows = list(reversed(verdict.differences))
    figure = go.Figure(layout=layout(height=90 + ROW_PIXELS * len(rows), showlegend=False))
    narrow: dict[str, Any] = {"height": 90 + NARROW_ROW_PIXELS * len(rows)}
    for place, difference in enumerate(rows):
        if _is_bounded(difference):
            figure.add_trace(_bootstrap(place, difference))
        figure.add_trace(_interval(place, difference))
        # Above its interval: the rival's name on the left, the numbers on the right.
        for side, anchor, text in ((0, "left", _rival(difference)), (1, "right", _numbers(difference))):
            figure.add_annotation(
                x=side, xref="paper", xanchor=anchor, y=place, yshift=19, showarrow=False, text=text, font={"size": 12}
            )
        narrow[f"annotations[{2 * place}].yshift"] = 19 + NARROW_RISE
    # What the page's script changes where there is little room.
    figure.update_layout(meta={"narrow": narrow})
    figure.update_xaxes(title_text="J of the winner minus J of the rival", zeroline=True, zerolinewidth=1.5)
    figure.update_xaxes(range=_reach(rows))
    figure.update_yaxes(visible=False, range=[-0.5, len(rows) - 0.25], fixedrange=True)
    return embedded(figure)


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
