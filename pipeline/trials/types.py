"""Where jobs come from and where what they find goes: all that an executor knows of a study."""

from __future__ import annotations

from typing import Protocol

from pipeline.trials.run import Job, Outcome, Progress


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

    def tell(self, job: Job, outcome: Outcome) -> None:
        """Take a finished job's outcome."""
        ...

    def fail(self, job: Job, reason: str, detail: str) -> None:
        """Take a job that is given up: a short reason and one line of detail."""
        ...

    def retried(self, job: Job, reason: str, detail: str) -> None:
        """Take note of an attempt that failed; another one goes on from its last checkpoint."""
        ...


class Executor(Protocol):
    """Runs a source's jobs until it is finished."""

    def run(self, source: TrialSource) -> None:
        """Run every job of the source."""
        ...
