"""What the folder of a search trial says of it, for whoever reads the folder; what was lost is written again."""

from __future__ import annotations

from typing import Any

from pipeline.study.running_trial import OpenTrial
from pipeline.trials.run import Outcome, summarize, write_json


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
