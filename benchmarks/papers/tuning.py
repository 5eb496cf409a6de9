"""A candidate tuned over learning rates and lambda together, and run on fresh seeds at what was best."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from benchmarks.papers.comparison import FIRST_SEED, mean_objective
from benchmarks.papers.field import Candidate
from benchmarks.papers.runs import Planned, Run, made
from benchmarks.papers.settings import END_ALONE, Setting
from pipeline.trials.task_models import build_assets


@dataclass(frozen=True)
class Tuned:
    """Who was tuned over learning rates: what was best on the tuning seeds, and its fresh runs.

    Attributes:
        learning_rate: That was best.
        candidate: With the lambda that was best.
        runs: On fresh seeds.
        tried: Mean J over the tuning seeds by learning rate and lambda.
    """

    learning_rate: float
    candidate: Candidate
    runs: list[Run]
    tried: Mapping[tuple[float, float], float]


class Tuner:
    """Tunes candidates on one task.

    Args:
        label: The task's.
        setting: How it is compared.
        path: Where every run is saved as it ends.
        workers: Runs side by side.
        commit: Of the code.
        console: Where the building of models prints.
    """

    def __init__(self, label: str, setting: Setting, path: Path, workers: int, commit: str, console: Console) -> None:
        self._label, self._setting, self._path = label, setting, path
        self._workers, self._commit = workers, commit
        self._config = setting.loaded()
        self._assets = str(build_assets(self._config, console) or "")

    def tuned(self, candidate: Candidate, factors: Sequence[float], *changes: str) -> Tuned:
        """Return a candidate at its best learning rate and lambda, run on fresh seeds.

        Args:
            candidate: Whose own lambda is tried beside the task's.
            factors: Learning rates, of the config's.
            *changes: Overrides of the config for all of its runs.
        """
        grid = {
            (self._config.ppo.learning_rate * factor, each.arm.shape.gae_lambda): each
            for factor in factors
            for each in with_lambdas(candidate, self._setting.lambdas)
        }

        def planned(point: tuple[float, float], seeds: Iterable[int], *more: str) -> list[Planned]:
            asked = self._setting.loaded(*changes, *more, f"ppo.learning_rate={point[0]!r}")
            return [Planned(grid[point], seed, asked, self._assets, self._commit) for seed in seeds]

        tuning = {point: planned(point, self._config.search.seeds, END_ALONE) for point in grid}
        done = self._made([each for plans in tuning.values() for each in plans])
        tried = {point: mean_objective([done[each.job] for each in plans]) for point, plans in tuning.items()}
        best = max(tried, key=lambda point: tried[point])
        fresh = planned(best, range(FIRST_SEED, FIRST_SEED + self._setting.seeds))
        runs = self._made(fresh)
        return Tuned(best[0], grid[best], [runs[each.job] for each in fresh], tried)

    def _made(self, planned: list[Planned]) -> dict[str, Run]:
        found = dict[str, Run]()
        for count, run in enumerate(made(planned, self._path, self._workers), 1):
            found[run.job] = run
            told = f"{self._label}: {count} of {len(planned)}: {run.entrant}: {run.told()}"
            print(told, file=sys.stderr, flush=True)
        return found


def with_lambdas(candidate: Candidate, lambdas: Iterable[float]) -> list[Candidate]:
    """Return a candidate under each lambda, its own too; a search ends beside a bound, not on it."""
    arm, values = candidate.arm, set(lambdas)
    if not any(math.isclose(arm.shape.gae_lambda, value, abs_tol=1e-6) for value in values):
        values.add(arm.shape.gae_lambda)
    return [
        replace(candidate, arm=replace(arm, shape=arm.shape.with_changes(gae_lambda=value))) for value in sorted(values)
    ]
