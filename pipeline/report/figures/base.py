"""What all figures of the report share: which arms are drawn, in which colours, and how a figure gets into the page.

Colours of data are fixed and hold on white and on black; whatever the page's theme decides (text, grid, background)
is left to the page's script.
"""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from pipeline.report.data import ArmResult, ReportData
from pipeline.study.verdict import TUNED
from pipeline.trials.arm import WINNER
from shaping.method_names import SPARSE, UNIFORM

ARM_COLOURS = {
    WINNER: "#e0552b",
    SPARSE: "#7b8798",
    TUNED[0]: "#3f7fd9",
    TUNED[1]: "#8b67d3",
    TUNED[2]: "#c4538f",
    UNIFORM: "#2c9c73",
}
# As many as the arms that may be confirmed beside the winner and its rivals, after those that these have.
OTHER_COLOURS = (
    *("#3f7fd9", "#8b67d3", "#2c9c73", "#c08a1e", "#c4538f", "#2796ab", "#7b8798"),
    *("#7d9a2e", "#a5694a", "#5a55e0", "#e08fb0", "#9b2f45", "#4fb6a0", "#6d8fb8"),
)
FAINT = "#8a8f98"
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


def transparent(colour: str, alpha: float) -> str:
    """Return a colour of six hexadecimal digits as one that lets the page through."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"
