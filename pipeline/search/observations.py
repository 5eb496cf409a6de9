"""What the Gaussian process is given: every trial's objective with an error that all trials were asked for.

The database holds what was measured, seed by seed. Errors are derived from all trials together and change with every
one, so they are worked out anew before each look at the model, in memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ax.core.data import Data
from ax.core.trial_status import TrialStatus

from pipeline.config.settings import SearchSettings
from pipeline.storage.keys import DEVIATION, OBJECTIVE, PROJECTED, SEED
from shaping.method_names import SPARSE


def seed_metric(seed: int) -> str:
    """Return the name under which one seed's objective is kept."""
    return f"{SEED}{seed}"


class Observations:
    """The objective's values and errors in an Ax experiment.

    Args:
        experiment: Ax's, whose data is changed in memory.
        search: Seeds and objective.
    """

    def __init__(self, experiment: Any, search: SearchSettings) -> None:
        self._experiment, self._search = experiment, search

    def by_seed(self) -> dict[int, dict[int, float]]:
        """Return completed trial to seed to objective, as measured."""
        found: dict[int, dict[int, float]] = {}
        names = {seed_metric(seed): seed for seed in self._search.seeds}
        completed = self._experiment.trial_indices_by_status[TrialStatus.COMPLETED]
        for row in self._experiment.lookup_data().df.itertuples():
            if row.metric_name in names and row.trial_index in completed:
                found.setdefault(int(row.trial_index), {})[names[row.metric_name]] = float(row.mean)
        return found

    def objective(self) -> dict[int, float]:
        """Return trial to objective: projected for trials that were stopped, a gain where that is searched."""
        frame = self._experiment.lookup_data().df
        mine = frame[frame["metric_name"] == OBJECTIVE]
        return {int(index): float(mean) for index, mean in zip(mine["trial_index"], mine["mean"], strict=True)}

    def told(self) -> dict[int, tuple[float, float | None]]:
        """Return trial to objective and its standard error; ``None`` where the model infers one noise level."""
        frame = self._experiment.lookup_data().df
        mine = frame[frame["metric_name"] == OBJECTIVE]
        rows = zip(mine["trial_index"], mine["mean"], mine["sem"], strict=True)
        return {int(i): (float(mean), None if math.isnan(error) else float(error)) for i, mean, error in rows}

    def refresh(self) -> None:
        """Give every trial's objective the error that all trials together speak for, or none where they cannot.

        All or none: Ax refuses a mixture. Without errors its model infers one noise level.
        """
        frame = self._experiment.lookup_data().df
        if frame.empty:
            return
        by_seed = self.by_seed()
        error, origin = pooled_error(by_seed, self._search.seeds), self._origin(by_seed)
        projected, deviations = (
            {int(row.trial_index): float(row.mean) for row in frame.itertuples() if row.metric_name == name}
            for name in (PROJECTED, DEVIATION)
        )
        mine = frame[frame["metric_name"] == OBJECTIVE].copy()
        if mine.empty:
            return
        means, errors = [], []
        for index in mine["trial_index"]:
            measured = by_seed.get(int(index))
            mean = math.fsum(measured.values()) / len(measured) if measured else projected[int(index)]
            means.append(mean - origin)
            errors.append(math.nan if error is None else max(error, deviations.get(int(index), 0.0)))
        mine["mean"], mine["sem"] = means, errors
        self._experiment.attach_data(Data(df=mine))

    def _origin(self, by_seed: dict[int, dict[int, float]]) -> float:
        """Return what gains are counted from: the sparse arm's mean once it is known, on the same seeds."""
        if self._search.objective != "gain":
            return 0.0
        sparse = [trial.index for trial in self._experiment.trials.values() if trial.arms[0].name == SPARSE]
        values = by_seed.get(sparse[0]) if sparse else None
        return math.fsum(values.values()) / len(values) if values else 0.0


# With fewer degrees of freedom the pooled error is itself too uncertain (over 30 %) to be taken at its word.
LEAST_FREEDOM = 6


def pooled_error(values: Mapping[int, Mapping[int, float]], seeds: tuple[int, ...]) -> float | None:
    """Return the standard error of a trial's mean over the seeds, pooled over trials.

    What a seed does to all trials alike is taken out first: trials share their seeds, so it cancels where they are
    compared (the residual of a two-way analysis of variance, trial and seed).

    Args:
        values: Trial to seed to value; trials that lack a seed are left out.
        seeds: Of every trial.

    Returns:
        ``None`` where there is too little evidence: one seed, or fewer than 6 degrees of freedom.
    """
    rows = [[trial[seed] for seed in seeds] for trial in values.values() if set(seeds) <= set(trial)]
    freedom = (len(rows) - 1) * (len(seeds) - 1)
    if freedom < LEAST_FREEDOM:
        return None
    table = np.array(rows)
    residual = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0, keepdims=True) + table.mean()
    return math.sqrt(float((residual**2).sum()) / freedom / len(seeds))
