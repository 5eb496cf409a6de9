"""A search trial whose seeds are being run: which are done, which are out, and what their curves say together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pipeline.arm import Arm
from pipeline.confirmation import smoothed
from pipeline.outer import Proposal
from pipeline.trial import seed_file


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
            seed: json.loads(path.read_text()) for seed, path in finished.items() if path.exists()
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

    def curve(self, steps: int) -> list[float]:
        """Return the trial's curve so far, one value for each step of each seed in the order of the seeds.

        A value is the smoothed J of that step, averaged over the seeds that came that far: trials of one study are
        compared at the same place, so on the same seeds. It ends where the first seed that is not finished stands.
        """
        found: list[float] = []
        before: list[list[float]] = []
        for seed in self.seeds:
            points = self._points[seed]
            length = next((step for step in range(steps) if step not in points), steps)
            own = smoothed([points[step] for step in range(length)])
            found += [fmean([*(other[step] for other in before), own[step]]) for step in range(length)]
            if length < steps:
                break
            before.append(own)
        return found
