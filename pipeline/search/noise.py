"""How far a trial's value may be trusted, when every trial has but a few seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

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
