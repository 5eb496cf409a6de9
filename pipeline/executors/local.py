"""Runs trials one after another in this process: the same trials every time, and easy to debug."""

from __future__ import annotations

import torch

from pipeline.source import TrialSource
from pipeline.trial import Job, Outcome, run_trial
from shaping.errors import ShapetuneError, TrialFailed


class LocalExecutor:
    """One job at a time, on as many threads as a worker process would use."""

    def run(self, source: TrialSource) -> None:
        """Run every job of the source.

        Raises:
            ShapetuneError: The source has no job to hand out although it is not finished.
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

    @staticmethod
    def _run(source: TrialSource, job: Job) -> None:
        try:
            for result in run_trial(job):
                if isinstance(result, Outcome):
                    source.tell(job, result)
                elif source.report(job, result):
                    source.stopped(job)
                    return
        except TrialFailed as failure:
            source.fail(job, failure.reason, failure.detail)
        except MemoryError as error:
            source.fail(job, "out_of_memory", str(error) or "the process ran out of memory")
