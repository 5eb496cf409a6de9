"""A study's trials as they stand, read from its folder: works while the study runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.runtime.files import read_kept, understood
from pipeline.storage.keys import EARLIER
from pipeline.study.folder import StudyFolder
from pipeline.study.launch_progress import LaunchProgress, read_progress

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
