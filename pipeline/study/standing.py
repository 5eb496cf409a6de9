"""Where a study stands as a whole: what stage it is in, what runs now, and how long the rest will take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.runtime.files import read_kept
from pipeline.runtime.time_left import time_left
from pipeline.study.folder import StudyFolder
from pipeline.study.launch_progress import LaunchProgress, RunOut, read_progress
from pipeline.study.status import Plan, read_plan, read_status

SEARCH, CONFIRM = "search", "confirm"
STAGES = {SEARCH: "searching shapes", CONFIRM: "confirming on fresh seeds"}
ENDED = ("completed", "stopped", "failed")


@dataclass(frozen=True)
class Standing:
    """A study as its folder shows it.

    Attributes:
        plan: What its config plans.
        rows: Its trials; see ``read_status``.
        runner: Who runs it, in words; ``None`` where nobody does.
        progress: What its launch last said; ``None`` where none did.
        confirmed_runs: Runs on fresh seeds that ended.
        verdict: The first line of the verdict; ``None`` before there is one.
        searched: Trials of the search that the winner was chosen from; ``None`` before there is one.
    """

    plan: Plan
    rows: list[dict[str, Any]]
    runner: str | None
    progress: LaunchProgress | None
    confirmed_runs: int
    verdict: str | None
    searched: int | None

    @property
    def own(self) -> list[dict[str, Any]]:
        """The study's own trials, without results that were taken over."""
        return [row for row in self.rows if not row["taken_over"]]

    @property
    def ended_trials(self) -> int:
        """Own trials that ended, however they did."""
        return sum(row["state"] in ENDED for row in self.own)

    @property
    def planned_runs(self) -> int | None:
        """Planned runs on fresh seeds; ``None`` where no launch has said how many there are."""
        if self.progress is None:
            return None
        return self.progress.total.get(CONFIRM, 0) // self.progress.run_steps or None

    @property
    def search_ended(self) -> bool:
        """Whether every trial of the search has ended."""
        return self.ended_trials >= self.plan.trials

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do."""
        if self.runner is not None or not self.search_ended:
            return False
        nothing_found = not any(row["state"] == "completed" for row in self.rows)
        all_confirmed = self.planned_runs is not None and self.confirmed_runs >= self.planned_runs
        return nothing_found or all_confirmed or (self.verdict is not None and self.searched == self.plan.trials)

    @property
    def runs(self) -> tuple[RunOut, ...]:
        """Runs that are out."""
        return self.progress.runs if self.runner is not None and self.progress is not None else ()

    @property
    def stage(self) -> str:
        """What the study is at, in words."""
        if self.ended:
            return "ended"
        if self.runner is None:
            return "not running"
        return STAGES[CONFIRM if self.search_ended else SEARCH]

    @property
    def left(self) -> str:
        """The time that is left, in words; empty where it is unknown."""
        return time_left(self.progress.seconds_left if self.runner is not None and self.progress is not None else None)

    def describe(self) -> str:
        """Return stage, counts and time left in one line."""
        planned = f" of {self.planned_runs}" if self.planned_runs else ""
        confirmed = f"{self.confirmed_runs}{planned} runs on fresh seeds done"
        parts = [f"{self.ended_trials} of {self.plan.trials} trials done"]
        if self.stage == STAGES[CONFIRM]:
            parts = [f"{self.confirmed_runs}{planned} runs done"]
        elif self.confirmed_runs:
            parts.append(confirmed)
        if self.left:
            parts.append(self.left)
        return f"{self.stage}: {', '.join(parts)}"


def best_of(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the trial with the best observed J; ``None`` where none was observed."""
    return max((row for row in rows if row["J"] is not None), key=lambda row: float(row["J"]), default=None)


def read_standing(folder: StudyFolder) -> Standing:
    """Return where a study stands.

    Raises:
        DamagedFileError: A file of it is not what was written.
    """
    ended = {path.parent for name in ("result", "failure") for path in folder.confirm.glob(f"*/{name}.json")}
    return Standing(
        plan=read_plan(folder),
        rows=read_status(folder),
        runner=folder.runner(),
        progress=read_progress(folder.progress_file),
        confirmed_runs=len(ended),
        verdict=read_kept(folder.verdict_file, lambda kept: str(kept["text"][0])),
        searched=read_kept(folder.winner_file, lambda kept: int(kept["trials"]) if "trials" in kept else 0),
    )
