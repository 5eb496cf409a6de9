"""A trainer of one's own that takes its time and writes down every step that it made."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.trainers.base import TrainingJob

# Steps that an attempt makes before it is held up.
HELD_AFTER = 6


def train(job: TrainingJob) -> Iterator[tuple[int, Mapping[str, float]]]:
    """Yield a J that depends on the shape, the seed and the step alone.

    With the option ``hold``, as long as a file of that name exists: steps take their time only then, and no attempt
    makes more than a few.
    """
    options = job.config["trainer"]["options"]
    hold = options.get("hold")
    for step in range(job.first_step, job.steps):
        if hold is None or Path(hold).exists():
            time.sleep(options["seconds"])
        while hold is not None and step - job.first_step >= HELD_AFTER and Path(hold).exists():
            time.sleep(0.05)
        with open(options["log"], "a") as log:
            log.write(f"{job.folder.parent.name}/{job.folder.name} {job.seed} {step} {os.getpid()}\n")
        weights = job.shape.weights
        gain = sum(number * weights.get(name, 0.0) for number, name in enumerate(("prefix", "attention", "shapley"), 1))
        luck = (job.seed * 37 + step * 11) % 17 / 100
        value = job.shape.balance * gain * (1 - job.shape.gae_lambda / 3) + luck + step / 10
        yield step, {"objective": value, "reward": value + 0.1, "kl_nats": 1.0}
