"""A source of jobs that is a list."""

from __future__ import annotations

from pipeline.trials.results import TrialResult
from pipeline.trials.types import Job, Progress


class ListSource:
    """Hands out a list of jobs and writes down what becomes of them."""

    def __init__(self, jobs: list[Job], stop_after: dict[int, int] | None = None) -> None:
        self.waiting = list(jobs)
        self.stop_after = stop_after or {}
        self.stopped_jobs: list[int] = []
        self.running: set[int] = set()
        self.most_running = 0
        self.progress: dict[int, list[int]] = {job.index: [] for job in jobs}
        self.outcomes: dict[int, TrialResult] = {}
        self.failures: dict[int, tuple[str, str]] = {}
        self.retries: list[tuple[int, str, str]] = []

    def ask(self) -> Job | None:
        if not self.waiting:
            return None
        job = self.waiting.pop(0)
        self.running.add(job.index)
        self.most_running = max(self.most_running, len(self.running))
        return job

    def finished(self) -> bool:
        return not self.waiting and not self.running

    def report(self, job: Job, progress: Progress) -> bool:
        assert job.index in self.running
        self.progress[job.index].append(progress.done_steps)
        return progress.done_steps >= self.stop_after.get(job.index, 1_000)

    def stopped(self, job: Job) -> None:
        self.running.remove(job.index)
        self.stopped_jobs.append(job.index)

    def tell(self, job: Job, outcome: TrialResult) -> None:
        self.running.remove(job.index)
        self.outcomes[job.index] = outcome

    def fail(self, job: Job, reason: str, detail: str) -> None:
        self.running.remove(job.index)
        self.failures[job.index] = (reason, detail)

    def retried(self, job: Job, reason: str, detail: str) -> None:
        assert job.index in self.running
        self.retries.append((job.index, reason, detail))
