"""Contour bands on a triangle: the surface that is linear between neighbouring points, cut at levels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

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
