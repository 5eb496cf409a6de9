"""Ax's own analyses of a study's search, as plain values: figures, tables, or why there is none."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import unescape
from typing import Any

from ax.analysis.graphviz.graphviz_analysis import GraphvizAnalysisCard
from ax.analysis.plotly.plotly_analysis import PlotlyAnalysisCard
from ax.core.analysis_card import AnalysisCard, AnalysisCardBase, AnalysisCardGroup, ErrorAnalysisCard
from markupsafe import Markup

from pipeline.runtime.logging import quiet_libraries
from pipeline.search.outer_loop import OuterLoop

DIGITS = 4


@dataclass(frozen=True)
class AxAnalysis:
    """One card.

    Attributes:
        group: What Ax files it under.
        title: Its name.
        explanation: What it shows, in Ax's words.
        figure: A Plotly figure; ``None`` where it has none.
        columns: Of its table.
        rows: Of its table, in words; empty where there is a figure.
        failure: Why Ax could not make it; empty where it could.
    """

    group: str
    title: str
    explanation: str
    figure: Any = None
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    failure: str = ""


def ax_analyses(outer: OuterLoop) -> tuple[AxAnalysis, ...]:
    """Return every card of Ax's overview, in its order; what it could not compute says so."""
    # Ax logs a trace for every card that it cannot make; the card says so, too.
    with quiet_libraries(logging.ERROR):
        return tuple(_cards(outer.analysis_cards(), ""))


def _cards(cards: Sequence[AnalysisCardBase], group: str) -> Iterator[AxAnalysis]:
    for card in cards:
        if isinstance(card, AnalysisCardGroup):
            # The outermost one holds everything; what is in it says what it is about.
            yield from _cards(card.children, group or ("" if card.name == "OverviewAnalysis" else card.title))
        elif isinstance(card, AnalysisCard):
            yield _analysis(card, group)


def _analysis(card: AnalysisCard, group: str) -> AxAnalysis:
    title, said = _plain(card.title), _plain(card.subtitle)
    if isinstance(card, ErrorAnalysisCard):
        return AxAnalysis(group, title, "", failure=said)
    if isinstance(card, PlotlyAnalysisCard):
        return AxAnalysis(group, title, said, figure=card.get_figure())
    # Its blob is a picture in a language that wants a program of its own; the table says the same.
    is_graph = isinstance(card, GraphvizAnalysisCard)
    columns = tuple(str(column) for column in card.df.columns)
    rows = tuple(tuple(_cell(value) for value in row) for row in card.df.itertuples(index=False))
    return AxAnalysis(group, title, said.splitlines()[0] if is_graph and said else said, columns=columns, rows=rows)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.{DIGITS}g}"
    return "" if value is None else _plain(str(value))


def _plain(text: str) -> str:
    """Return Ax's words without their markup."""
    return unescape(Markup(text).striptags()).replace("**", "").replace("`", "")  # nosec B704
