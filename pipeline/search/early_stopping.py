"""Stopping trials early: Ax decides on a trial's curve, and what was seen of a stopped trial is not lost.

The curves live in an experiment of their own, in memory. In the study's experiment a curve would be a second metric
with steps, which Ax then makes an input of the Gaussian process; and half-trained values would look like ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import correlation, fmean, linear_regression, stdev, variance
from typing import Any

from ax.api.client import Client
from ax.api.configs import RangeParameterConfig
from ax.core.map_metric import MapMetric
from ax.early_stopping.strategies import PercentileEarlyStoppingStrategy

from pipeline.runtime.logging import quiet_libraries

CURVE = "curve"
# A straight line through fewer trials says nothing of the others.
LEAST_TRIALS = 3
# A trial stops at a dip: the line starts from the mean of its last values, of which the dip is one.
WINDOW = 5


@dataclass(frozen=True)
class Projection:
    """What a stopped trial would have reached, by the trials that were trained to their ends."""

    objective: float
    deviation: float

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Projection:
        """Return the projection that the file of a stopped trial holds."""
        return cls(float(kept["objective"]), float(kept["deviation"]))


class EarlyStopping:
    """Decides which trials stop.

    Args:
        worst_percent: A trial stops while it is among the worst, by this many percent, of all at the same place.
        least_steps: Steps that every trial is given.
        least_trials: Trials that must have been trained to their ends before one is stopped.
    """

    def __init__(self, worst_percent: float, least_steps: int, least_trials: int) -> None:
        self._least_steps, self._least_trials = least_steps, max(least_trials, LEAST_TRIALS)
        with quiet_libraries():
            self._client = Client()
            self._client.configure_experiment([RangeParameterConfig("trial", (0.0, 1.0e9), "float")])
            self._client.configure_optimization(CURVE)
            self._client.configure_metrics([MapMetric(name=CURVE, lower_is_better=False)])
            self._client.set_early_stopping_strategy(
                PercentileEarlyStoppingStrategy(
                    metric_signatures=[CURVE],
                    percentile_threshold=worst_percent,
                    min_progression=float(least_steps),
                    min_curves=self._least_trials,
                )
            )
        self._known: dict[int, int] = {}
        self._asked: dict[int, int] = {}
        self._curves: dict[int, list[float]] = {}
        self._ends: dict[int, float] = {}

    def observe(self, trial: int, curve: Sequence[float]) -> None:
        """Take the curve of a trial so far."""
        with quiet_libraries():
            if trial not in self._known:
                self._known[trial] = self._client.attach_trial({"trial": float(trial)})
                self._curves[trial] = []
            for step in range(len(self._curves[trial]), len(curve)):
                self._client.attach_data(self._known[trial], {CURVE: float(curve[step])}, progression=step + 1)
        self._curves[trial] = list(curve)

    def should_stop(self, trial: int) -> bool:
        """Return whether the trial is to be stopped now."""
        length = len(self._curves.get(trial, ()))
        if length < max(1, self._least_steps) or len(self._ends) < self._least_trials:
            return False  # Ax would say so, too, after a while
        if self._asked.get(trial) == length:
            return False  # it was asked at this step
        self._asked[trial] = length
        with quiet_libraries():
            return bool(self._client.should_stop_trial_early(self._known[trial]))

    def completed(self, trial: int, objective: float) -> None:
        """Take the end of a trial that was trained to it."""
        self._ends[trial] = objective
        if trial in self._known:
            with quiet_libraries():
                self._client.complete_trial(self._known[trial])

    def stopped(self, trial: int) -> None:
        """Take note that a trial was stopped."""
        with quiet_libraries():
            self._client.mark_trial_early_stopped(self._known[trial])

    def failed(self, trial: int) -> None:
        """Take note that a trial came to nothing."""
        if trial in self._known:
            with quiet_libraries():
                self._client.mark_trial_abandoned(self._known[trial])

    def projection(self, trial: int) -> Projection | None:
        """Return what the trial would have reached; ``None`` where too few trials came to their ends."""
        return projected(self._curves[trial], self._curves, self._ends)


def projected(
    curve: Sequence[float], curves: Mapping[int, Sequence[float]], ends: Mapping[int, float]
) -> Projection | None:
    """Return the end that belongs to a curve's last value, on a line through the trials that have ended.

    Args:
        curve: Of the stopped trial, so far.
        curves: Trial to curve.
        ends: Trial to final J, of trials that were trained to their ends.
    """
    place = len(curve) - 1
    pairs = [
        (_level(curves[trial], place), end) for trial, end in ends.items() if len(curves.get(trial, ())) > place >= 0
    ]
    if len(pairs) < LEAST_TRIALS:
        return None
    seen, reached = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    # A falling line would promise a bad trial a good end: then the curve says nothing.
    if len(set(seen)) < 2 or len(set(reached)) < 2 or correlation(seen, reached) <= 0:
        return Projection(fmean(reached), stdev(reached))
    slope, start = linear_regression(seen, reached)
    missed = [end - (start + slope * value) for value, end in pairs]
    level, count = _level(curve, place), len(pairs)
    # What a new end may miss the line by: the more, the further its trial is from those that drew it.
    leverage = 1 + 1 / count + (level - fmean(seen)) ** 2 / ((count - 1) * variance(seen))
    deviation = (sum(each**2 for each in missed) / max(count - 2, 1) * leverage) ** 0.5
    # Nothing is known of ends that no trial had.
    return Projection(min(max(start + slope * level, min(reached)), max(reached)), deviation)


def _level(curve: Sequence[float], place: int) -> float:
    return fmean(curve[max(0, place - WINDOW + 1) : place + 1])
