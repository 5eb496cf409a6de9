"""A study as its folder shows it: its trials, its stage, what runs now, and how long the rest will take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.runtime.console import time_left
from pipeline.runtime.files import read_kept, understood
from pipeline.storage.keys import EARLIER
from pipeline.study.folder import StudyFolder
from pipeline.study.progress import LaunchProgress, RunOut, read_progress

# What a trial shows beside its index, arm, origin and shape until a file of it says more.
UNKNOWN: dict[str, Any] = {
    "state": "running",
    "J": None,
    "J_standard_error": None,
    "kl_nats": None,
    "projected_J": None,
    "projected_J_deviation": None,
    "steps": None,
    "total_steps": None,
    "reason": "",
    "taken_over": False,
}


@dataclass(frozen=True)
class Plan:
    """What a study's config plans.

    Attributes:
        name: The study's.
        trials: Of the search.
        seeds: Of each trial.
        run_steps: Training steps of each seed.
    """

    name: str
    trials: int
    seeds: int
    run_steps: int

    @property
    def trial_steps(self) -> int:
        """Training steps of a trial, over all its seeds."""
        return self.seeds * self.run_steps


def read_plan(folder: StudyFolder) -> Plan:
    """Return what the config plans; read past its own checks, which import a space of one's own.

    Raises:
        DamagedFileError: It is no config.
    """
    with understood(folder.config_file):
        config = yaml.safe_load(folder.config_file.read_text(encoding="utf-8"))
        trials, seeds = int(config["search"]["trials"]), len(config["search"]["seeds"])
        return Plan(str(config["name"]), trials, seeds, int(config["ppo"]["steps"]))


def read_status(folder: StudyFolder) -> list[dict[str, Any]]:
    """Return one row a search trial: index, arm, origin, state, shape, J with its standard error, KL, steps, reason.

    A trial that was stopped early has no J; ``projected_J`` with its deviation is what it was on its way to after
    ``steps`` of ``total_steps``, over all seeds. Of one that has not ended, ``steps`` are those that are known of.
    """
    plan, progress = read_plan(folder), read_progress(folder.progress_file)
    folders = [path for path in folder.trials.glob("*") if path.name.isdigit()]
    return [_row(path, plan, progress) for path in sorted(folders, key=lambda path: int(path.name))]


def is_taken_over(made: dict[str, Any]) -> bool:
    """Return whether a ``trial.json`` is of a result of an earlier study; one whose arm alone is has a shape."""
    return made["origin"] == EARLIER and not made.get("shape")


def _row(folder: Path, plan: Plan, progress: LaunchProgress | None) -> dict[str, Any]:
    known = {"index": int(folder.name), "arm": "", "origin": "", "shape": None}
    row = {**known, **(read_kept(folder / "trial.json", _begun) or {}), **UNKNOWN}
    row["taken_over"] = bool(read_kept(folder / "trial.json", is_taken_over))
    # First: a seed that was still out when its trial was stopped may have failed afterwards.
    for name, parse in (("stopped", lambda kept: _stopped(kept, plan)), ("failure", _failed), ("result", _completed)):
        found = read_kept(folder / f"{name}.json", parse)
        if found is not None:
            return row | found
    return row | {"steps": _steps(folder, plan, progress), "total_steps": plan.trial_steps}


def _steps(folder: Path, plan: Plan, progress: LaunchProgress | None) -> int:
    """Return the training steps of a trial that has not ended: of its finished seeds, and of those that are out."""
    finished = {path.name for path in folder.glob("seed-*.json")}
    runs = [] if progress is None else [run for run in progress.runs if run.index == int(folder.name)]
    out = sum(run.done_steps for run in runs if f"seed-{run.seed}.json" not in finished)
    return min(len(finished) * plan.run_steps + out, plan.trial_steps)


def _begun(made: dict[str, Any]) -> dict[str, Any]:
    index, arm, origin = made["index"], made["arm"], made["origin"]
    return {**made, "index": int(index), "arm": str(arm), "origin": str(origin)}


def _stopped(kept: dict[str, Any], plan: Plan) -> dict[str, Any]:
    steps, total = kept["steps"], plan.trial_steps
    mean, deviation = kept["objective"], kept["deviation"]
    reason = f"stopped after {steps} of {total} steps, on its way to J {mean:+.3f} ± {deviation:.3f}"
    numbers = {"projected_J": mean, "projected_J_deviation": deviation, "steps": steps, "total_steps": total}
    return {"state": "stopped", "reason": reason, **numbers}


def _failed(kept: dict[str, Any]) -> dict[str, Any]:
    return {"state": "failed", "reason": f"{kept['reason']}: {kept['detail']}"}


def _completed(kept: dict[str, Any]) -> dict[str, Any]:
    mean, error = kept["metrics"]["objective"]
    told = {"J": mean, "J_standard_error": error, "kl_nats": kept["metrics"]["kl_nats"][0]}
    return {"state": "completed", "shape": kept["arm"]["shape"], **told}


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
