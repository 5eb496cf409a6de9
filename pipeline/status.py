"""A study's trials as they stand, read from its folder: works while the study runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.study_folder import StudyFolder, read_json
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
    paths = sorted(folder.trials.glob("*/trial.json"), key=lambda path: int(path.parent.name))
    return [_row(path.parent, folder) for path in paths]


def _total_steps(folder: StudyFolder) -> int:
    """Return a trial's training steps; read past the config's own checks, which would import the optimizer."""
    config = yaml.safe_load(folder.config_file.read_text(encoding="utf-8"))
    return int(config["ppo"]["steps"]) * len(config["search"]["seeds"])


def _row(folder: Path, study: StudyFolder) -> dict[str, Any]:
    row: dict[str, Any] = {"shape": None, **json.loads((folder / "trial.json").read_text()), **UNKNOWN}
    result, failure = read_json(folder / "result.json"), read_json(folder / "failure.json")
    stopped = read_json(folder / "stopped.json")
    # First: a seed that was still out when its trial was stopped may have failed afterwards.
    if stopped is not None:
        steps, total = stopped["steps"], _total_steps(study)
        mean, deviation = stopped["objective"], stopped["deviation"]
        reason = f"stopped after {steps} of {total} steps, on its way to J {mean:+.3f} ± {deviation:.3f}"
        row |= {"projected_J": mean, "projected_J_deviation": deviation, "steps": steps, "total_steps": total}
        return row | {"state": "stopped", "reason": reason}
    if failure is not None:
        return row | {"state": "failed", "reason": f"{failure['reason']}: {failure['detail']}"}
    if result is not None:
        mean, error = result["metrics"]["objective"]
        row |= {"state": "completed", "J": mean, "J_standard_error": error, "shape": result["arm"]["shape"]}
        row |= {"kl_nats": result["metrics"]["kl_nats"][0]}
    return row


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
        said = "\n".join(escape(part) for part in (shape, row["reason"]) if part)
        table.add_row(str(row["index"]), escape(row["origin"]), row["state"], objective, kl, said)
    console.print(table)
    finished = [row for row in rows if row["J"] is not None]
    if finished:
        best = max(finished, key=lambda row: float(row["J"]))
        console.print(f"best observed J so far: {best['J']:+.3f}, trial {best['index']}")
