"""Statistics of a trial: the mean of a few seeds and how far it may be trusted, and smoothed curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

SMOOTHING_STEPS = 5


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and its standard error; ``None`` for a single value, which says nothing of its spread."""
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return fmean(values), error


def smoothed(values: Sequence[float]) -> list[float]:
    """Return the means over the last five steps; the first ones use the steps there are."""
    return [fmean(values[max(0, i - SMOOTHING_STEPS + 1) : i + 1]) for i in range(len(values))]


def smoothed_mean_curve(curves: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean over seeds, smoothed."""
    return smoothed([fmean(values) for values in zip(*curves, strict=True)])


def first_step_reaching(curve: Sequence[float], level: float) -> int | None:
    """Return the number of steps after which the smoothed curve first reaches the level, or ``None``."""
    return next((i + 1 for i, v in enumerate(curve) if i + 1 >= min(SMOOTHING_STEPS, len(curve)) and v >= level), None)
