"""Early stopping's decisions without Ax: a search asks for thousands of them, and each takes Ax tens of milliseconds.

The rule is Ax's ``PercentileEarlyStoppingStrategy``; tests compare the two, decision by decision.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.search.early_stopping import LEAST_TRIALS, EarlyStopping


class QuickStopping(EarlyStopping):
    """As ``EarlyStopping``; projections are its own.

    Args:
        worst_percent: As there.
        least_steps: As there.
        least_trials: As there.
    """

    def __init__(self, worst_percent: float, least_steps: int, least_trials: int) -> None:
        self._share, self._least_steps = worst_percent / 100, least_steps
        self._least_trials = max(least_trials, LEAST_TRIALS)
        self._asked: dict[int, int] = {}
        self._curves: dict[int, list[float]] = {}
        self._ends: dict[int, float] = {}

    def observe(self, trial: int, curve: Sequence[float]) -> None:
        """Take the curve of a trial so far."""
        self._curves[trial] = list(curve)

    def should_stop(self, trial: int) -> bool:
        """Return whether the trial is to be stopped now."""
        curve = self._curves.get(trial, [])
        if len(curve) < max(self._least_steps, 1) or len(self._ends) < self._least_trials:
            return False
        if self._asked.get(trial) == len(curve):
            return False
        self._asked[trial] = len(curve)
        place = len(curve) - 1
        there = [other[place] for other in self._curves.values() if len(other) > place]
        return len(there) >= self._least_trials and bool(curve[place] < np.quantile(there, self._share))

    def completed(self, trial: int, objective: float) -> None:
        """Take the end of a trial that was trained to it."""
        self._ends[trial] = objective

    def stopped(self, trial: int) -> None:
        """Take note of nothing: a stopped trial's curve counts as long as it is."""

    def failed(self, trial: int) -> None:
        """Take note of nothing: what was seen of a failed trial counts, too."""
