"""How far a launch is: the steps of both stages, which runs are out, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pipeline.config.schema import StudyConfig
from pipeline.study.standing import CONFIRM, SEARCH
from pipeline.study.verdict import confirmation_arms
from pipeline.trials.arm import Arm
from pipeline.trials.run import Job, Progress


class StepCount:
    """Counts training steps as a study tells of them.

    Args:
        config: The study's config, for the totals.
        reward_critic: Whether a critic can start as the task's reward model, which makes one arm more to confirm.
        clock: Seconds.

    Attributes:
        totals: Planned steps of each stage.
    """

    def __init__(
        self, config: StudyConfig, reward_critic: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config, self._clock, self._run_steps = config, clock, config.ppo.steps
        arms = len(confirmation_arms(Arm("any", config.base_shape()), config.base_shape(), reward_critic))
        self.totals = {
            SEARCH: config.search.trials * len(config.search.seeds) * self._run_steps,
            CONFIRM: (arms + config.confirm.top - 1) * len(config.confirm.seeds) * self._run_steps,
        }
        self._done: dict[str, dict[str, int]] = {SEARCH: {}, CONFIRM: {}}
        self._out: dict[str, dict[str, Any]] = {}
        self._began: float | None = None
        self._made_steps = self._ended_runs = 0

    def already(self, stage: str, steps: int) -> None:
        """Count training steps that an earlier launch finished, or need not make any more."""
        self._done[stage]["before"] = steps

    def started(self, stage: str, job: Job) -> None:
        """Count a job as out."""
        if self._began is None:
            self._began = self._clock()
        about = {"index": job.index, "arm": str(job.arm["name"]), "seed": job.seeds[0]}
        self._out[_key(job.folder, job.seeds)] = {"stage": stage, **about, "done_steps": 0}

    def progressed(self, stage: str, job: Job, progress: Progress) -> None:
        """Count a training step."""
        key = _key(job.folder, job.seeds)
        self._made_steps += not progress.again
        if key in self._out:
            self._out[key]["done_steps"] = progress.done_steps
        # A run whose trial was given up counts as done, though it may still be out.
        if self._done[stage].get(key, 0) < job.total_steps:
            self._done[stage][key] = progress.done_steps

    def left(self, stage: str, job: Job) -> None:
        """Count a job that ended as done, however it ended."""
        key = _key(job.folder, job.seeds)
        self._ended_runs += self._out.pop(key, None) is not None
        self._done[stage][key] = job.total_steps

    def given_up(self, job: Job) -> None:
        """Count every run of a search trial as done: those that are not out yet will never be."""
        for seed in self._config.search.seeds:
            self._done[SEARCH][_key(job.folder, (seed,))] = self._run_steps

    def done(self, stage: str) -> int:
        """Return the steps of a stage that need not be made any more."""
        return min(sum(self._done[stage].values()), self.totals[stage])

    def seconds_left(self, *stages: str) -> float | None:
        """Return how long the rest of the stages will take at this launch's pace; ``None`` before a run has ended."""
        if self._began is None or not self._ended_runs or self._made_steps < self._run_steps:
            return None
        pace = (self._clock() - self._began) / self._made_steps
        return pace * sum(self.totals[stage] - self.done(stage) for stage in stages)

    def to_dict(self) -> dict[str, Any]:
        """Return what others are told: steps done and planned, runs that are out, and the seconds left."""
        return {
            "run_steps": self._run_steps,
            "stages": {name: {"done_steps": self.done(name), "total_steps": self.totals[name]} for name in self.totals},
            "runs": list(self._out.values()),
            "seconds_left": self.seconds_left(SEARCH, CONFIRM),
        }


def _key(folder: str, seeds: tuple[int, ...]) -> str:
    return f"{folder} {seeds}"
