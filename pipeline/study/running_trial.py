"""A search trial between proposal and end: its seeds, their curves together, and what its folder says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pipeline.search.proposal import Proposal
from pipeline.trials.arm import Arm
from pipeline.trials.records import FailureRecord, TrialFiles, TrialRecord, TrialState
from pipeline.trials.results import RunResult, TrialResult
from pipeline.trials.statistics import smoothed


class RunningTrial:
    """One trial of the search between proposal and end.

    Args:
        proposal: What is run.
        folder: Its folder; seeds that are finished there are taken as they are.
        seeds: Of all its runs.

    Attributes:
        files: Its folder's.
        runs: Finished seeds' results.
        waiting: Seeds that no job was handed out for.
        out: Seeds whose job runs.
        ended: How the trial ended although jobs of it may still run; ``None`` before.
    """

    def __init__(self, proposal: Proposal, folder: Path, seeds: Sequence[int]) -> None:
        self.proposal, self.files, self.seeds = proposal, TrialFiles(folder), tuple(seeds)
        self.arm = Arm(proposal.arm, proposal.shape, proposal.trainer)
        finished = {seed: self.files.run(seed) for seed in seeds}
        self.runs: dict[int, RunResult] = {seed: run for seed, run in finished.items() if run is not None}
        self.waiting = [seed for seed in seeds if seed not in self.runs]
        self.out: set[int] = set()
        self.ended: TrialState | None = None
        self._points: dict[int, dict[int, float]] = {seed: {} for seed in seeds}
        for seed, run in self.runs.items():
            self._points[seed] = dict(enumerate(run.objective_curve))

    @property
    def complete(self) -> bool:
        """Whether every seed is finished."""
        return len(self.runs) == len(self.seeds)

    def ordered_runs(self) -> list[RunResult]:
        """Return the finished runs in the order of the seeds."""
        return [self.runs[seed] for seed in self.seeds if seed in self.runs]

    def end(self, how: TrialState) -> None:
        """End the trial; seeds that wait are not run."""
        self.ended, self.waiting = how, []

    def observe(self, seed: int, step: int, objective: float) -> None:
        """Take note of J after a training step."""
        self._points[seed][step] = objective

    @property
    def done_steps(self) -> int:
        """Training steps of all seeds so far."""
        return sum(len(points) for points in self._points.values())

    def curve(self) -> list[float]:
        """Return the trial's curve so far: the mean over all seeds of the smoothed J, up to the slowest one's step.

        Trials of one study are compared at the same step and on the same seeds; one seed alone says too little.
        """
        curves = []
        for points in self._points.values():
            length = next((step for step in range(len(points)) if step not in points), len(points))
            curves.append(smoothed([points[step] for step in range(length)]))
        return [fmean(values) for values in zip(*curves, strict=False)]

    def write_record(self) -> None:
        """Write what runs."""
        given = self.proposal
        self.files.write_record(TrialRecord(given.index, given.arm, given.origin, given.shape, given.trainer))

    def write_result(self) -> TrialResult:
        """Write the result of all seeds and return it."""
        result = TrialResult.of(self.ordered_runs())
        self.files.write_result(self.arm, result)
        return result

    def restore(self, row: Mapping[str, Any]) -> None:
        """Write what the folder lacks of an ended trial.

        Args:
            row: What the database says of it; see ``OuterLoop.trials``.
        """
        if not self.files.has_begun:
            self.write_record()
        if row["status"] == "completed" and self.complete and not self.files.has_result:
            self.write_result()
        if row["status"] == "abandoned" and not self.files.has_failure:
            reason, _, detail = row["reason"].partition(": ")
            self.files.write_failure(FailureRecord(reason or "unknown", detail, self.arm))
