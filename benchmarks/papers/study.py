"""The study whose winner takes part: launched as a user would, kept once it ended."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.kept import ROOT
from benchmarks.papers.field import WINNER, Candidate
from benchmarks.record import RESULTS
from pipeline.arm import Arm
from pipeline.builtin_configs import find_config
from pipeline.config import StudyConfig, load_config
from pipeline.kept_files import read_json
from pipeline.launch import launch_study
from pipeline.trial import write_json

# Like the others: it is run on fresh seeds by the comparison itself.
UNCONFIRMED = "confirm.seeds=[]"
STUDIES = ROOT / "build" / "papers"


def study_winner(name: str, changes: tuple[str, ...], trials: int, label: str, console: Console) -> Candidate:
    """Return what a study over the task finds, with its lambda; a study that was run before is not run again.

    Args:
        name: A built-in config's name.
        changes: ``key=value`` overrides of it.
        trials: Of the study.
        label: Of the comparison.
        console: Where the study prints.
    """
    asked = (*changes, UNCONFIRMED, f"search.trials={trials}", f"name=papers-{label}")
    config, kept = load_config(find_config(name), asked), winner_file(label)
    identity = _identity(config)
    if not kept.exists() or read_json(kept)["identity"] != identity:
        # Of another config it is another study; one that was interrupted goes on.
        studies = STUDIES / identity
        launch_study(name, asked, studies, console)
        write_json(kept, {"identity": identity, "trials": trials, **_found(studies / config.name)})
    arm = Arm.from_dict(read_json(kept)["arm"])
    # On its own it would have the critic of the comparison's config.
    return Candidate(WINNER, Arm(WINNER, arm.shape, arm.critic or config.ppo.critic))


def winner_file(label: str) -> Path:
    """Return where a study's winner is kept."""
    return RESULTS / f"papers-{label}-winner.json"


def _found(study: Path) -> dict[str, Any]:
    winner = read_json(study / "winner.json")
    trials = [
        {"trial": read_json(path.with_name("trial.json")), "J": read_json(path)["metrics"]["objective"]}
        for path in sorted(study.glob("trials/*/result.json"))
    ]
    return {"arm": {name: winner[name] for name in ("name", "shape", "critic")}, "searched": trials}


def _identity(config: StudyConfig) -> str:
    # Where it runs decides in which order trials end, but not what is asked.
    values = config.model_dump(mode="json", exclude={"executor", "storage"})
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
