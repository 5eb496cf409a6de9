"""Sections of the report that are made of others' figures: Ax's analyses, and the landscape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from markupsafe import Markup

from pipeline.report.figures.base import embedded

if TYPE_CHECKING:
    from pipeline.search.ax_analyses import AxAnalysis
from pipeline.analysis.landscape import Landscape
from pipeline.report import words
from pipeline.report.figures import landscape as landscape_figures
from pipeline.report.figures.triangle import triangle_figures


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


TOO_FEW = "Too few trials have ended for a model."


@dataclass(frozen=True)
class Triangle:
    """A triangle's corners and its two figures."""

    methods: tuple[str, str, str]
    mean: Markup
    deviation: Markup


@dataclass(frozen=True)
class LandscapeSection:
    """What the section shows.

    Attributes:
        found: What the model believes; ``None`` where nothing is shown but ``why_not``.
        label: What is believed, on axes and in captions.
        faces: Triangles.
        planes: Name and figure.
        slices: Name and figure.
        prediction: How well the model predicts.
        prediction_words: The same in a sentence.
        why_not: Why there is no model.
    """

    found: Landscape | None
    label: str = ""
    faces: tuple[Triangle, ...] = ()
    planes: tuple[tuple[str, Markup], ...] = ()
    slices: tuple[tuple[str, Markup], ...] = ()
    prediction: Markup | None = None
    prediction_words: str = ""
    why_not: str = TOO_FEW

    @classmethod
    def of(cls, found: Landscape | None, objective: str) -> LandscapeSection:
        """Return the section of a model's belief."""
        if found is None:
            return cls(None)
        label = "gain in J" if objective == "gain" else words.searched_label(objective)
        prediction = landscape_figures.prediction_figure(found, label)
        return cls(
            found,
            label,
            tuple(Triangle(face.methods, *triangle_figures(found, face, label)) for face in found.faces),
            tuple((f"{each.x}, {each.y}", landscape_figures.plane_figure(each, label)) for each in found.planes),
            tuple(landscape_figures.slice_figures(found, label)),
            prediction,
            landscape_figures.prediction_words(found) if prediction else "",
        )
