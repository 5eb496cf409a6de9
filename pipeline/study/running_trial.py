"""A search trial between proposal and end: its seeds, their curves together, and what its folder says of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pipeline.runtime.files import read_kept, write_json
from pipeline.search.outer_loop import Proposal
from pipeline.trials.arm import Arm
from pipeline.trials.run import seed_file, summarize
from pipeline.trials.statistics import smoothed
from pipeline.trials.types import Outcome


class OpenTrial:
    """One trial of the search between proposal and end.

    Args:
        proposal: What is run.
        folder: Its folder; seeds that are finished there are taken as they are.
        seeds: Of all its runs.

    Attributes:
        runs: Finished seeds' results.
        waiting: Seeds that no job was handed out for.
        out: Seeds whose job runs.
        ended: ``failed`` or ``stopped`` once the trial is over although jobs may still run; empty before.
    """

    def __init__(self, proposal: Proposal, folder: Path, seeds: Sequence[int]) -> None:
        self.proposal, self.folder, self.seeds = proposal, folder, tuple(seeds)
        self.arm = Arm(proposal.arm, proposal.shape)
        finished = {seed: seed_file(folder, seed) for seed in seeds}
        self.runs: dict[int, dict[str, Any]] = {
            seed: run for seed, path in finished.items() if (run := read_kept(path, _run)) is not None
        }
        self.waiting = [seed for seed in seeds if seed not in self.runs]
        self.out: set[int] = set()
        self.ended = ""
        self._points: dict[int, dict[int, float]] = {seed: {} for seed in seeds}
        for seed, run in self.runs.items():
            self._points[seed] = {step: point["objective"] for step, point in enumerate(run["curve"])}

    @property
    def complete(self) -> bool:
        """Whether every seed is finished."""
        return len(self.runs) == len(self.seeds)

    def ordered_runs(self) -> list[dict[str, Any]]:
        """Return the finished runs in the order of the seeds."""
        return [self.runs[seed] for seed in self.seeds if seed in self.runs]

    def end(self, how: str) -> None:
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


def _run(content: dict[str, Any]) -> dict[str, Any]:
    """Return a run; what has none of its values is none."""
    curve = [point["objective"] for point in content["curve"]]
    for value in (content["seed"], content["evaluation"]["objective"], *curve):
        float(value)
    return content


def write_begun(trial: OpenTrial) -> None:
    """Write what is run."""
    proposal, arm = trial.proposal, trial.arm
    made = {"index": proposal.index, "arm": arm.name, "origin": proposal.origin, "shape": arm.shape.to_dict()}
    write_json(trial.folder / "trial.json", made)


def write_result(trial: OpenTrial) -> Outcome:
    """Write the outcome of all seeds and return it."""
    outcome = summarize(trial.ordered_runs())
    kept = {**outcome.to_dict(), "arm": trial.arm.to_dict(), "seeds": list(trial.seeds)}
    write_json(trial.folder / "result.json", kept)
    return outcome


def restore(trial: OpenTrial, row: dict[str, Any]) -> None:
    """Write what an ended trial's folder lacks.

    Args:
        trial: The trial.
        row: What the database says of it; see ``OuterLoop.trials``.
    """
    if not (trial.folder / "trial.json").exists():
        write_begun(trial)
    if row["status"] == "completed" and trial.complete and not (trial.folder / "result.json").exists():
        write_result(trial)
    if row["status"] == "abandoned" and not (trial.folder / "failure.json").exists():
        reason, _, detail = row["reason"].partition(": ")
        failure = {"reason": reason or "unknown", "detail": detail, "arm": trial.arm.to_dict()}
        write_json(trial.folder / "failure.json", failure)
