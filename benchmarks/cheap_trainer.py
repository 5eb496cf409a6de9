"""A trainer for benchmarks of everything around training: it sleeps, and says what the shape alone decides."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterator, Mapping

from pipeline.trainers.base import TrainingJob

GAINS = {"prefix": 1.0, "attention": 0.4, "shapley": 0.7}


def value(job: TrainingJob, step: int) -> float:
    """Return J: smooth in the shape, with luck that depends on seed, shape and step."""
    shares = job.shape.active_methods()
    gain: float = sum(GAINS.get(name, 0.0) * share**0.5 for name, share in shares.items())
    luck = zlib.crc32(repr((job.seed, step, sorted(shares.items()))).encode()) % 1000 / 10_000
    return gain - (job.shape.gae_lambda - 0.8) ** 2 + luck + step / 100


def train(job: TrainingJob) -> Iterator[tuple[int, Mapping[str, float]]]:
    """Sleep ``seconds`` for each step; with a ``log``, write down every step and the process that made it."""
    options = job.config["trainer"]["options"]
    for step in range(job.first_step, job.steps):
        time.sleep(options.get("seconds", 0.0))
        if "log" in options:
            with open(options["log"], "a") as log:
                log.write(f"{job.folder.parent.name}/{job.folder.name} {job.seed} {step} {os.getpid()}\n")
        measured = value(job, step)
        yield step, {"objective": measured, "reward": measured, "kl_nats": 0.0}
