"""What a trial leaves in its folder, as typed records: the only reader and the only writer of its files.

``trial.json`` says what runs, ``seed-N.json`` how a seed's run ended, ``result.json`` what all seeds came to,
``failure.json`` and ``stopped.json`` why there is no result, ``failures-N.jsonl`` which attempts failed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from pipeline.runtime.files import read_lines, read_saved, understood, write_json
from pipeline.trials.arm import Arm
from pipeline.trials.results import Metrics, RunResult, TrialResult, metrics_of
from search_spaces.base import Value
from shaping.shape import Shape


class TrialState(StrEnum):
    """How a trial stands."""

    RUNNING = "running"
    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"


class Origin(StrEnum):
    """How a trial came about."""

    BASELINE = "baseline"
    SOBOL = "sobol"
    MODEL = "model"
    EARLIER = "earlier study"


@dataclass(frozen=True)
class SavedResult:
    """What ``result.json`` holds: whose result, of which seeds, and the result."""

    arm: Arm
    result: TrialResult

    def runs_of(self, seeds: Sequence[int]) -> list[RunResult]:
        """Return the runs of these seeds, in their order: a trial of an earlier study may have had more."""
        found = {run.seed: run for run in self.result.runs}
        return [found[seed] for seed in seeds if seed in found]


@dataclass(frozen=True)
class TrialRecord:
    """What ``trial.json`` holds: what runs.

    Attributes:
        index: The trial's number.
        arm: Its arm's name.
        origin: How it came about; a word of ``Origin``, or of another version's.
        shape: ``None`` where the result of an earlier study was taken over.
        trainer: The trainer's settings that the trial chose, by their place in the config.
    """

    index: int
    arm: str
    origin: str
    shape: Shape | None = None
    trainer: Mapping[str, Value] = field(default_factory=dict)

    @property
    def is_taken_over(self) -> bool:
        """Whether its result is an earlier study's; a trial whose arm alone is one's has a shape."""
        return self.origin == Origin.EARLIER and self.shape is None


@dataclass(frozen=True)
class FailureRecord:
    """What ``failure.json`` holds: why a trial was given up."""

    reason: str
    detail: str
    arm: Arm


@dataclass(frozen=True)
class AttemptRecord:
    """One line of ``failures-N.jsonl``: an attempt of a run that failed.

    Attributes:
        seeds: Of the run; almost always one.
        at: When it was noted, in ISO 8601.
        reason: A short name.
        detail: One line.
        trace: Where it happened; empty where nobody saw.
        halts: Whether the study had to stop until somebody acted.
    """

    seeds: tuple[int, ...]
    at: str
    reason: str
    detail: str
    trace: str = ""
    halts: bool = False


@dataclass(frozen=True)
class StopRecord:
    """What ``stopped.json`` holds: a trial that was stopped early.

    Attributes:
        steps: Training steps made, over all seeds.
        objective: J that it was on its way to.
        deviation: How uncertain that is.
        curve: Smoothed J, mean over the seeds.
    """

    steps: int
    objective: float
    deviation: float
    curve: tuple[float, ...]


class TrialFiles:
    """The files of one trial's or confirmation run's folder.

    Args:
        folder: It need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._trial, self._result = folder / "trial.json", folder / "result.json"
        self._failure, self._stop = folder / "failure.json", folder / "stopped.json"

    def run_file(self, seed: int) -> Path:
        """Return where a finished seed's run is."""
        return self.folder / f"seed-{seed}.json"

    def checkpoint(self, seed: int) -> Path:
        """Return where a seed's run resumes from."""
        return self.folder / f"seed-{seed}.safetensors"

    def has_run(self, seed: int) -> bool:
        """Return whether a seed's run has finished."""
        return self.run_file(seed).exists()

    def count_runs(self) -> int:
        """Return the number of finished runs."""
        return len(list(self.folder.glob("seed-*.json")))

    @property
    def portions_file(self) -> Path:
        """Where the built-in PPO keeps what had to be cut smaller to fit into memory: further attempts begin so."""
        return self.folder / "portions.json"

    @property
    def has_result(self) -> bool:
        """Whether all seeds came to a result."""
        return self._result.exists()

    @property
    def has_failure(self) -> bool:
        """Whether the trial was given up."""
        return self._failure.exists()

    @property
    def has_stop(self) -> bool:
        """Whether the trial was stopped early."""
        return self._stop.exists()

    @property
    def has_begun(self) -> bool:
        """Whether it was written down what runs."""
        return self._trial.exists()

    @property
    def state(self) -> TrialState:
        """How the trial stands.

        A seed that was still out when its trial was stopped may have failed afterwards, and a result whose certificate
        was refused is a failure.
        """
        if self.has_stop:
            return TrialState.STOPPED
        if self.has_failure:
            return TrialState.FAILED
        return TrialState.COMPLETED if self.has_result else TrialState.RUNNING

    def record(self) -> TrialRecord | None:
        """Return what runs; ``None`` while the folder does not tell.

        Raises:
            DamagedFileError: The file is not what was written; so for all that is read below.
        """
        return read_saved(self._trial, _record)

    def result(self) -> SavedResult | None:
        """Return the result; ``None`` without one."""
        return read_saved(self._result, lambda saved: SavedResult(_arm(saved), TrialResult.from_dict(saved)))

    def summary(self) -> tuple[Arm, Metrics] | None:
        """Return arm, means and standard errors of the result alone, which is all that a table of trials shows."""
        return read_saved(self._result, lambda saved: (_arm(saved), metrics_of(saved)))

    def failure(self) -> FailureRecord | None:
        """Return why the trial was given up; ``None`` where it was not."""
        return read_saved(self._failure, _failure)

    def stop(self) -> StopRecord | None:
        """Return how the trial was stopped; ``None`` where it was not."""
        return read_saved(self._stop, _stop)

    def run(self, seed: int) -> RunResult | None:
        """Return a seed's finished run; ``None`` without one."""
        return read_saved(self.run_file(seed), RunResult.from_dict)

    def runs(self) -> list[RunResult]:
        """Return all finished runs, by seed."""
        found = (read_saved(path, RunResult.from_dict) for path in self.folder.glob("seed-*.json"))
        return sorted((run for run in found if run is not None), key=lambda run: run.seed)

    def attempts(self) -> list[AttemptRecord]:
        """Return the failed attempts, run by run, each run's oldest first; a line that was cut off is left out."""
        found: list[AttemptRecord] = []
        for path in sorted(self.folder.glob("failures-*.jsonl")):
            with understood(path):
                found += [_attempt(line) for line in read_lines(path)]
        return found

    def arm(self) -> Arm | None:
        """Return what the trial runs, from whichever file tells it; ``None`` while none does."""
        for path in (self._result, self._failure):
            arm = read_saved(path, _arm)
            if arm is not None:
                return arm
        record = self.record()
        return None if record is None or record.shape is None else Arm(record.arm, record.shape, record.trainer)

    def write_record(self, record: TrialRecord) -> None:
        """Write down what runs."""
        tried: dict[str, Any] = {} if record.shape is None else {"shape": record.shape.to_dict()}
        tried |= {"trainer": dict(record.trainer)} if record.trainer else {}
        write_json(self._trial, {"index": record.index, "arm": record.arm, "origin": str(record.origin), **tried})

    def write_run(self, run: RunResult) -> None:
        """Write a seed's finished run."""
        write_json(self.run_file(run.seed), run.to_dict())

    def write_result(self, arm: Arm, result: TrialResult) -> None:
        """Write the result of all seeds."""
        seeds = [run.seed for run in result.runs]
        write_json(self._result, {**result.to_dict(), "arm": arm.to_dict(), "seeds": seeds})

    def write_failure(self, failure: FailureRecord) -> None:
        """Write why the trial was given up."""
        values = {"reason": failure.reason, "detail": failure.detail, "arm": failure.arm.to_dict()}
        write_json(self._failure, values)

    def attempts_file(self, seeds: Sequence[int]) -> Path:
        """Return where the failed attempts of a job of these seeds are, one a line."""
        return self.folder / f"failures-{'-'.join(map(str, seeds))}.jsonl"

    def stall_file(self, seeds: Sequence[int]) -> Path:
        """Return where a worker that hung writes what it was doing."""
        return self.folder / f"stalled-{'-'.join(map(str, seeds))}.txt"

    def add_attempt(self, attempt: AttemptRecord) -> None:
        """Add a failed attempt."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.attempts_file(attempt.seeds).open("a", encoding="utf-8") as file:
            file.write(json.dumps(vars(attempt)) + "\n")

    def write_stop(self, stop: StopRecord) -> None:
        """Write how the trial was stopped."""
        write_json(self._stop, {**vars(stop), "curve": list(stop.curve)})


def trial_files(trials: Path) -> list[TrialFiles]:
    """Return the trials of a study's folder, by index; a folder of another name is none."""
    folders = [path for path in trials.glob("*") if path.name.isdigit()]
    return [TrialFiles(path) for path in sorted(folders, key=lambda path: int(path.name))]


def _arm(saved: Mapping[str, Any]) -> Arm:
    return Arm.from_dict(saved["arm"])


def _attempt(line: Mapping[str, Any]) -> AttemptRecord:
    seeds = tuple(int(seed) for seed in line["seeds"])
    at, reason, detail = (str(line[name]) for name in ("at", "reason", "detail"))
    return AttemptRecord(seeds, at, reason, detail, str(line.get("trace", "")), bool(line.get("halts", False)))


def _record(saved: Mapping[str, Any]) -> TrialRecord:
    shape = Shape.from_dict(saved["shape"]) if saved.get("shape") else None
    trainer = dict(saved.get("trainer", {}))
    return TrialRecord(int(saved["index"]), str(saved["arm"]), str(saved["origin"]), shape, trainer)


def _failure(saved: Mapping[str, Any]) -> FailureRecord:
    return FailureRecord(str(saved["reason"]), str(saved["detail"]), _arm(saved))


def _stop(saved: Mapping[str, Any]) -> StopRecord:
    curve = tuple(float(value) for value in saved["curve"])
    return StopRecord(int(saved["steps"]), float(saved["objective"]), float(saved["deviation"]), curve)
