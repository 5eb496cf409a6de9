"""What a finished run kept: its end, its certificate, what it cost, and where it ran."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from statistics import fmean
from typing import Any

from pipeline.study.verdict import Difference, paired_difference
from pipeline.trials.results import RunResult
from shaping.certificate import Certificate


@dataclass(frozen=True)
class RunRecord:
    """One finished run of an arm with one seed; what it did not keep is ``None``.

    Attributes:
        seed: The run's seed.
        objective: J on held-out prompts at the end; higher is better.
        certificate: Of all responses that the run was trained on.
        cpu_seconds: Processor seconds of training, evaluations not counted.
        wall_seconds: From its last attempt's start to the end, evaluations included.
        credit_tokens: Tokens that the reward model read for credit, beyond scoring each response once.
        place: Processor or GPU, threads, precision and torch in words.
        host: Told apart from others, never shown.
    """

    seed: int
    objective: float
    certificate: Certificate
    cpu_seconds: float | None
    wall_seconds: float | None
    credit_tokens: int | None
    place: str | None
    host: str | None

    @property
    def credit_per_response(self) -> float | None:
        """Tokens that the reward model read for credit, for one response; ``None`` where that is not known."""
        checked = self.certificate.responses
        return None if self.credit_tokens is None or checked == 0 else self.credit_tokens / checked


@dataclass(frozen=True)
class Ratio:
    """A mean ratio of two arms' costs over paired seeds, with its 95 % interval; below 1 the first is cheaper."""

    mean: float
    low: float
    high: float
    seeds: int


def record_of(run: RunResult) -> RunRecord:
    """Return what a report says of a run."""
    machine = run.machine
    return RunRecord(
        seed=run.seed,
        objective=run.objective,
        certificate=run.certificate,
        cpu_seconds=run.training_cpu_seconds,
        wall_seconds=run.wall_seconds,
        # A custom trainer says nothing of what its credit cost.
        credit_tokens=None if run.is_custom else run.credit_tokens,
        place=None if machine is None else _place(machine),
        host=None if machine is None else str(machine.get("host", "")),
    )


def merged_certificate(records: Sequence[RunRecord]) -> Certificate | None:
    """Return one certificate for all runs of an arm; ``None`` where none finished."""
    return reduce(Certificate.merged, (record.certificate for record in records)) if records else None


def mean_of(records: Sequence[RunRecord], value: Callable[[RunRecord], float | None]) -> float | None:
    """Return the mean of a value over runs; ``None`` where one of them does not have it, or there is no run."""
    values = [value(record) for record in records]
    known = [each for each in values if each is not None]
    return fmean(known) if known and len(known) == len(values) else None


def cpu_ratio(ours: Sequence[RunRecord], theirs: Sequence[RunRecord]) -> Ratio | None:
    """Return how many times the processor seconds of the others ours took, paired by seed.

    The mean is geometric and the interval Student's t over the logarithms: a ratio and its inverse are then the same
    finding. ``None`` where no seed has both.
    """
    mine, other = ({record.seed: record.cpu_seconds or 0.0 for record in records} for records in (ours, theirs))
    shared = [seed for seed in mine if mine[seed] > 0 and other.get(seed, 0.0) > 0]
    if not shared:
        return None
    logs = [[math.log(seconds[seed]) for seed in shared] for seconds in (mine, other)]
    found: Difference = paired_difference("", *logs)
    return Ratio(math.exp(found.mean), math.exp(found.low), math.exp(found.high), found.seeds)


def _place(machine: Mapping[str, Any]) -> str:
    parts = [str(machine["device"]), str(machine["precision"])]
    # A trainer of one's own may do without torch.
    if "torch" in machine:
        threads = int(machine["threads"])
        parts.insert(1, f"{threads} {'thread' if threads == 1 else 'threads'}")
        parts.append(f"torch {machine['torch']}")
    return ", ".join(parts)
