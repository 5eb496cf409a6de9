"""A study's trials as they stand, read from its folder: works while the study runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.kept_files import read_kept, understood
from pipeline.study_folder import StudyFolder
from shaping.printable import printable
from shaping.shape import Shape

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
}


def read_status(folder: StudyFolder) -> list[dict[str, Any]]:
    """Return one row a search trial: index, arm, origin, state, shape, J with its standard error, KL, reason.

    A trial that was stopped early has no J; ``projected_J`` with its deviation is what it was on its way to after
    ``steps`` of ``total_steps``, over all seeds.
    """
    folders = [path for path in folder.trials.glob("*") if path.name.isdigit()]
    return [_row(path, folder) for path in sorted(folders, key=lambda path: int(path.name))]


def _total_steps(folder: StudyFolder) -> int:
    """Return a trial's training steps; read past the config's own checks, which would import the optimizer."""
    with understood(folder.config_file):
        config = yaml.safe_load(folder.config_file.read_text(encoding="utf-8"))
        return int(config["ppo"]["steps"]) * len(config["search"]["seeds"])


def _row(folder: Path, study: StudyFolder) -> dict[str, Any]:
    known = {"index": int(folder.name), "arm": "", "origin": "", "shape": None}
    row = {**known, **(read_kept(folder / "trial.json", _begun) or {}), **UNKNOWN}
    # First: a seed that was still out when its trial was stopped may have failed afterwards.
    for name, parse in (("stopped", lambda kept: _stopped(kept, study)), ("failure", _failed), ("result", _completed)):
        found = read_kept(folder / f"{name}.json", parse)
        if found is not None:
            return row | found
    return row


def _begun(made: dict[str, Any]) -> dict[str, Any]:
    index, arm, origin = made["index"], made["arm"], made["origin"]
    return {**made, "index": int(index), "arm": str(arm), "origin": str(origin)}


def _stopped(kept: dict[str, Any], study: StudyFolder) -> dict[str, Any]:
    steps, total = kept["steps"], _total_steps(study)
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


def show_status(rows: list[dict[str, Any]], console: Console) -> None:
    """Print the table and the best arm so far."""
    if not rows:
        console.print("no trial has started yet")
        return
    table = Table(box=None, pad_edge=False)
    for name, side in (("trial", "right"), ("origin", "left"), ("state", "left"), ("J", "right"), ("KL", "right")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    table.add_column("shape, and why it ended early")
    for row in rows:
        error = row["J_standard_error"]
        spread = "" if error is None else f" ± {error:.3f}"
        objective = "" if row["J"] is None else f"{row['J']:+.3f}{spread}"
        kl = "" if row["kl_nats"] is None else f"{row['kl_nats']:.1f}"
        shape = Shape.from_dict(row["shape"]).describe() if row["shape"] else ""
        said = "\n".join(escape(printable(part)) for part in (shape, row["reason"]) if part)
        table.add_row(str(row["index"]), escape(printable(row["origin"])), row["state"], objective, kl, said)
    console.print(table)
    finished = [row for row in rows if row["J"] is not None]
    if finished:
        best = max(finished, key=lambda row: float(row["J"]))
        console.print(f"best observed J so far: {best['J']:+.3f}, trial {best['index']}")
