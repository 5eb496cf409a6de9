"""A trainer of one's own that goes wrong as its arm's name says, at its fourth step of six."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator, Mapping

from pipeline.trainers.base import TrainingJob

STEPS, FAULTY_STEP = 6, 3


def train(job: TrainingJob) -> Iterator[tuple[int, Mapping[str, float]]]:
    """Yield a J that grows with the step; faults called ``once`` are gone at the second attempt."""
    attempts = job.folder / "attempts.txt"
    attempts.open("a").write(f"{job.first_step}\n")
    again = len(attempts.read_text().split()) > 1
    for step in range(job.first_step, job.steps):
        if step == FAULTY_STEP and not ("once" in job.arm and again):
            go_wrong(job.arm.split()[0])
        yield step, {"objective": nan_or(step, job.arm), "reward": float(step), "kl_nats": 0.5}


def nan_or(step: int, arm: str) -> float:
    return float("nan") if arm.startswith("nan") and step == FAULTY_STEP else job_value(step, arm)


def job_value(step: int, arm: str) -> float:
    return step + len(arm) / 10


def go_wrong(how: str) -> None:
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "raises":
        raise ValueError(f"the reward service\nsaid no to {how}")
    if how == "hangs":
        time.sleep(600)
    if how == "memory":
        raise MemoryError
    if how == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "curve.csv")
