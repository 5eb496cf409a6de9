"""What the report's section of Ax's own analyses shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from markupsafe import Markup

from pipeline.report.figures.base import embedded

if TYPE_CHECKING:
    from pipeline.search.ax_analyses import AxAnalysis


@dataclass(frozen=True)
class AxCard:
    """A card, and its figure with a number that names it on the page."""

    number: int
    shown: AxAnalysis
    figure: Markup | None


def ax_groups(analyses: Sequence[AxAnalysis]) -> list[tuple[str, list[AxCard]]]:
    """Return the cards by what Ax files them under, in its order."""
    cards = [AxCard(number, each, _figure(each)) for number, each in enumerate(analyses)]
    return [(group, list(each)) for group, each in groupby(cards, key=lambda card: card.shown.group)]


def _figure(analysis: AxAnalysis) -> Markup | None:
    """Return the figure in the page's own look."""
    if analysis.figure is None:
        return None
    clear = "rgba(0,0,0,0)"
    figure = analysis.figure.update_layout(template="none", paper_bgcolor=clear, plot_bgcolor=clear, width=None)
    return embedded(figure)
