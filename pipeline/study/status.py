"""A study as its folder shows it: its trials, its stage, what runs now, and how long the rest will take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config.yaml_text import NotYamlError, parse_yaml
from pipeline.runtime.console import time_left
from pipeline.runtime.files import read_saved, understood
from pipeline.study.folder import StudyFolder
from pipeline.study.progress import CONFIRM, SEARCH, STAGES, LaunchProgress, RunOut, read_progress
from pipeline.trials.records import TrialFiles, TrialState, trial_files
from search_spaces.base import Candidate, Value
from shaping.shape import Shape

# What a trial shows beside its index, arm, origin and shape until a file of it says more.
UNKNOWN: dict[str, Any] = {
    "state": TrialState.RUNNING,
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
        try:
            config = parse_yaml(folder.config_file.read_text(encoding="utf-8"), str(folder.config_file))
        except NotYamlError as error:
            raise ValueError(error.problem) from error
        trials, seeds = int(config["search"]["trials"]), len(config["search"]["seeds"])
        return Plan(str(config["name"]), trials, seeds, int(config["ppo"]["steps"]))


def read_status(folder: StudyFolder) -> list[dict[str, Any]]:
    """Return one row a search trial: index, arm, origin, state, shape, J with its standard error, KL, steps, reason.

    A trial that was stopped early has no J; ``projected_J`` with its deviation is what it was on its way to after
    ``steps`` of ``total_steps``, over all seeds. Of one that has not ended, ``steps`` are those that are known of.
    """
    plan, progress = read_plan(folder), read_progress(folder.progress_file)
    return [_row(files, plan, progress) for files in trial_files(folder.trials)]


def _row(files: TrialFiles, plan: Plan, progress: LaunchProgress | None) -> dict[str, Any]:
    record, index, state = files.record(), int(files.folder.name), files.state
    row: dict[str, Any] = {"index": index, "arm": "", "origin": "", "shape": None, **UNKNOWN, "state": state}
    if record is not None:
        shape = None if record.shape is None else record.shape.to_dict()
        row |= {"index": record.index, "arm": record.arm, "origin": record.origin, **tried(shape, record.trainer)}
        row["taken_over"] = record.is_taken_over
    match state:
        case TrialState.STOPPED:
            return row | _stopped(files, plan)
        case TrialState.FAILED:
            failure = files.failure()
            return row | ({} if failure is None else {"reason": f"{failure.reason}: {failure.detail}"})
        case TrialState.COMPLETED:
            return row | _completed(files)
    return row | {"steps": _steps(files, plan, progress), "total_steps": plan.trial_steps}


def _steps(files: TrialFiles, plan: Plan, progress: LaunchProgress | None) -> int:
    """Return the training steps of a trial that has not ended: of its finished seeds, and of those that are out."""
    runs = [] if progress is None else [run for run in progress.runs if run.index == int(files.folder.name)]
    out = sum(run.done_steps for run in runs if not files.has_run(run.seed))
    return min(files.count_runs() * plan.run_steps + out, plan.trial_steps)


def _stopped(files: TrialFiles, plan: Plan) -> dict[str, Any]:
    stop = files.stop()
    assert stop is not None
    mean, deviation, total = stop.objective, stop.deviation, plan.trial_steps
    reason = f"stopped after {stop.steps} of {total} steps, on its way to J {mean:+.3f} ± {deviation:.3f}"
    numbers = {"projected_J": mean, "projected_J_deviation": deviation, "steps": stop.steps, "total_steps": total}
    return {"reason": reason, **numbers}


def _completed(files: TrialFiles) -> dict[str, Any]:
    summary = files.summary()
    assert summary is not None
    arm, metrics = summary
    with understood(files.folder / "result.json"):
        mean, error = metrics["objective"]
        found = {"J": mean, "J_standard_error": error, "kl_nats": metrics["kl_nats"][0]}
        return {**tried(arm.shape.to_dict(), arm.trainer), **found}


def tried(shape: dict[str, Any] | None, trainer: Mapping[str, Value]) -> dict[str, Any]:
    """Return what a row says of what its trial tried; of the trainer nothing, where its settings are not searched."""
    return {"shape": shape, **({"trainer": dict(trainer)} if trainer else {})}


def tried_in_words(row: Mapping[str, Any]) -> str:
    """Return what a row's trial tried in words; empty where that is not known."""
    return Candidate(Shape.from_dict(row["shape"]), row.get("trainer", {})).describe() if row["shape"] else ""


ENDED = (TrialState.COMPLETED, TrialState.STOPPED, TrialState.FAILED)


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
        bounds: Bounds of the space that the search ran into, in words.
    """

    plan: Plan
    rows: list[dict[str, Any]]
    runner: str | None
    progress: LaunchProgress | None
    confirmed_runs: int
    verdict: str | None
    searched: int | None
    bounds: tuple[str, ...] = ()

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
        nothing_found = not any(row["state"] == TrialState.COMPLETED for row in self.rows)
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
    confirmed = (TrialFiles(path) for path in folder.confirm.glob("*"))
    ended = sum(files.has_result or files.has_failure for files in confirmed)
    return Standing(
        plan=read_plan(folder),
        rows=read_status(folder),
        runner=folder.runner(),
        progress=read_progress(folder.progress_file),
        confirmed_runs=ended,
        verdict=read_saved(folder.verdict_file, lambda kept: str(kept["text"][0])),
        searched=read_saved(folder.winner_file, lambda kept: int(kept["trials"]) if "trials" in kept else 0),
        bounds=tuple(each.words() for each in folder.bounds()),
    )
