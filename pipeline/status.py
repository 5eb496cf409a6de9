"""A study's trials as they stand, read from its folder: works while the study runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.study_folder import StudyFolder, read_json
from shaping.shape import Shape


def read_status(folder: StudyFolder) -> list[dict[str, Any]]:
    """Return one row a search trial: index, arm, origin, state, shape, J with its standard error, KL, reason."""
    return [_row(path.parent) for path in sorted(folder.trials.glob("*/trial.json"), key=lambda p: int(p.parent.name))]


def _row(folder: Path) -> dict[str, Any]:
    trial = json.loads((folder / "trial.json").read_text())
    result, failure = read_json(folder / "result.json"), read_json(folder / "failure.json")
    row: dict[str, Any] = {**trial, "state": "running", "shape": None, "J": None, "J_standard_error": None}
    row |= {"kl_nats": None, "reason": ""}
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
    table.add_column("shape, or why it failed")
    for row in rows:
        error = row["J_standard_error"]
        spread = "" if error is None else f" ± {error:.3f}"
        objective = "" if row["J"] is None else f"{row['J']:+.3f}{spread}"
        kl = "" if row["kl_nats"] is None else f"{row['kl_nats']:.1f}"
        shape = Shape.from_dict(row["shape"]).describe() if row["shape"] else row["reason"]
        table.add_row(str(row["index"]), row["origin"], row["state"], objective, kl, shape)
    console.print(table)
    finished = [row for row in rows if row["J"] is not None]
    if finished:
        best = max(finished, key=lambda row: float(row["J"]))
        console.print(f"best observed J so far: {best['J']:+.3f}, trial {best['index']}")
