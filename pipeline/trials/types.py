"""What travels between a study and its executor: jobs, progress, endings, and the two sides as protocols."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.trials.records import TrialFiles
from pipeline.trials.results import TrialResult


@dataclass(frozen=True)
class Job:
    """Runs of one trial as an executor gets them: plain values only, so that they can travel.

    Attributes:
        index: The trial's number in its source.
        folder: Where its results are written, as a string; jobs of one trial share it.
        arm: ``Arm.to_dict()``.
        seeds: One inner run each, in this order. The seeds of a trial may be jobs of their own, side by side.
        config: ``StudyConfig.model_dump(mode="json")``.
        assets: The folder of what the task built once; empty where it built nothing.
        judges_untrained: Whether the policy is judged before its training, too: it is the same for every arm of a seed.
    """

    index: int
    folder: str
    arm: dict[str, Any]
    seeds: tuple[int, ...]
    config: dict[str, Any]
    assets: str
    judges_untrained: bool = False

    @property
    def files(self) -> TrialFiles:
        """The files of its trial."""
        return TrialFiles(Path(self.folder))

    @property
    def total_steps(self) -> int:
        """Training steps of the whole job: what progress is measured in."""
        return int(self.config["ppo"]["steps"]) * len(self.seeds)


@dataclass(frozen=True)
class Progress:
    """One training step of a job; steps of an earlier attempt are told again.

    Attributes:
        done_steps: Steps of all the job's seeds so far.
        seed: Whose step it is.
        step: Its number, from 0.
        point: What it measured.
        again: Whether an earlier attempt made the step, so that it took no time now.
    """

    done_steps: int
    seed: int
    step: int
    point: Mapping[str, float]
    again: bool = False


@dataclass(frozen=True)
class Ending:
    """The end of a trial: its outcome, or in words why there is none.

    Attributes:
        outcome: ``None`` where the trial failed or was stopped.
        reason: Empty with an outcome.
        stopped: Whether it was stopped early, which is no failure.
    """

    outcome: TrialResult | None
    reason: str
    stopped: bool = False


class TrialSource(Protocol):
    """Hands out jobs and takes what became of them. Called from one thread."""

    def ask(self) -> Job | None:
        """Return the next job, or ``None`` while nothing can be handed out."""
        ...

    def finished(self) -> bool:
        """Return whether no job will ever come again and none is out."""
        ...

    def report(self, job: Job, progress: Progress) -> bool:
        """Take note of a training step; return whether the job is to stop, which ``stopped`` then confirms."""
        ...

    def stopped(self, job: Job) -> None:
        """Take note that a job was stopped."""
        ...

    def tell(self, job: Job, outcome: TrialResult) -> None:
        """Take a finished job's outcome."""
        ...

    def fail(self, job: Job, reason: str, detail: str) -> None:
        """Take a job that is given up: a short reason and one line of detail."""
        ...

    def retried(self, job: Job, reason: str, detail: str) -> None:
        """Take note of an attempt that failed; another one resumes from its last checkpoint."""
        ...


class Executor(Protocol):
    """Runs a source's jobs until it is finished."""

    def run(self, source: TrialSource) -> None:
        """Run every job of the source."""
        ...
