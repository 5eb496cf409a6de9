"""Runs trials one after another in this process: the same trials every time, and easy to debug."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from pipeline.trials.failures import Failure, failure_of, halted, note_failure
from pipeline.trials.results import TrialResult
from pipeline.trials.run import run_trial
from pipeline.trials.types import Job, Progress, TrialSource
from pipeline.trials.watchdog import alarm
from shaping.errors import ShapetuneError


class LocalExecutor:
    """One job at a time, on as many threads as a worker process would use.

    Args:
        retries: Further attempts of a job whose attempt failed, each from its last checkpoint.
        stall_minutes: Silence after which an attempt counts as hung.
    """

    def __init__(self, retries: int = 3, stall_minutes: float = 60.0) -> None:
        self._retries, self._stall_minutes = retries, stall_minutes

    def run(self, source: TrialSource) -> None:
        """Run every job of the source.

        Raises:
            ShapetuneError: The source has no job to hand out although it is not finished, or nothing can be written.
        """
        threads = torch.get_num_threads()
        try:
            while not source.finished():
                job = source.ask()
                if job is None:
                    raise ShapetuneError("the study waits for a trial that does not run", "please report this")
                self._run(source, job)
        finally:
            torch.set_num_threads(threads)

    def _run(self, source: TrialSource, job: Job) -> None:
        for retry in range(self._retries + 1):
            failure = self._attempt(source, job)
            if failure is None:
                return
            if failure.halts:
                raise halted(failure)
            note_failure(job, failure)
            if retry == self._retries or not failure.may_be_retried:
                source.fail(job, failure.reason, failure.detail)
                return
            source.retried(job, failure.reason, failure.detail)

    def _attempt(self, source: TrialSource, job: Job) -> Failure | None:
        results = run_trial(job)
        while True:
            # What the source raises is no failure of the trial.
            result = self._next(results)
            if isinstance(result, Failure):
                return result
            if isinstance(result, TrialResult):
                source.tell(job, result)
                return None
            if source.report(job, result):
                source.stopped(job)
                return None

    def _next(self, results: Iterator[Progress | TrialResult]) -> Progress | TrialResult | Failure:
        try:
            with alarm(self._stall_minutes):
                return next(results)
        except Exception as error:
            return failure_of(error)
