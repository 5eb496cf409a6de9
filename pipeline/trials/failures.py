"""Failed attempts of a job: what each was, and what is kept of them in the trial's folder."""

from __future__ import annotations

import errno
import socket
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline.trials.records import AttemptRecord
from pipeline.trials.types import Job
from shaping.errors import SamplingServerFailed, ServiceFailed, ShapetuneError, TrialFailed, is_out_of_memory

EXCEPTION, OUT_OF_MEMORY, HUNG, WORKER_DIED, NODE_LOST = (
    "exception",
    "out_of_memory",
    "hung",
    "worker_died",
    "node_lost",
)
# What training itself came to: another attempt from the same checkpoint would come to the same.
FINAL = ("kl_limit", "collapse", "empty_responses", "disagreement", "certificate")
# What no other attempt and no other trial can do better before somebody acts.
HALTING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed.

    Attributes:
        reason: A short name.
        detail: One line.
        trace: Where it happened; empty where nobody saw.
        halts: Whether the study has to stop until somebody acts: no room or no right to write, or no reward.
    """

    reason: str
    detail: str
    trace: str = ""
    halts: bool = False

    @property
    def may_be_retried(self) -> bool:
        """Whether another attempt from the last checkpoint may end differently."""
        return self.reason not in FINAL


def failure_of(error: Exception) -> Failure:
    """Return what an exception of an attempt means."""
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, TrialFailed):
        return Failure(error.reason, error.detail, trace, halts=isinstance(error, ServiceFailed))
    if is_out_of_memory(error):
        return Failure(OUT_OF_MEMORY, _line(error) or "the process ran out of memory", trace)
    if isinstance(error, ShapetuneError):
        return Failure(EXCEPTION, " ".join(part for part in (error.message, error.hint) if part), trace)
    halts = stops_everything(error)
    where = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(where[-1].filename).name}, line {where[-1].lineno})" if where else ""
    return Failure(EXCEPTION, f"{type(error).__name__}: {_line(error)}{place}", trace, halts)


def stops_everything(error: BaseException) -> bool:
    """Return whether there is no room or no right to write."""
    return isinstance(error, OSError) and error.errno in HALTING


def halted(failure: Failure) -> ShapetuneError:
    """Return the error that ends a study which no trial can go on with."""
    where = socket.gethostname()
    if failure.reason in (ServiceFailed.REASON, SamplingServerFailed.REASON):
        return ShapetuneError(
            f"on {where}: {failure.detail}", "start it again; then the same command resumes the study"
        )
    return ShapetuneError(
        f"the study cannot write any more on {where}: {failure.detail}",
        "make room there, or give back the right to write; then the same command resumes the study",
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def note_failure(job: Job, failure: Failure) -> None:
    """Add a failed attempt to the trial's folder; a disk that takes nothing any more must not hide the cause."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    attempt = AttemptRecord(job.seeds, at, failure.reason, failure.detail, failure.trace, failure.halts)
    try:
        job.files.add_attempt(attempt)
    except OSError:
        if not failure.halts:
            raise
