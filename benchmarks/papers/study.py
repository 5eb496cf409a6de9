"""The study whose winner takes part: launched as a user would, saved once it ended."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.common.cache import ROOT
from benchmarks.common.record import RESULTS, provenance
from benchmarks.papers.field import WINNER, Candidate
from benchmarks.papers.settings import Setting
from pipeline.commands.launch import launch_study
from pipeline.config.schema import StudyConfig
from pipeline.runtime.files import read_json, write_json
from pipeline.study.examined import examined
from pipeline.trials.arm import Arm
from pipeline.trials.records import TrialFiles

# Like the others: it is run on fresh seeds by the comparison itself.
UNCONFIRMED = "confirm.seeds=[]"
STUDIES = ROOT / "build" / "papers"


def study_winner(setting: Setting, label: str, commit: str, console: Console) -> Candidate:
    """Return what a study over the task finds, with its lambda; a study that was run before is not run again.

    Args:
        setting: How the task is compared.
        label: The task's.
        commit: Of the code.
        console: Where the study prints.
    """
    asked = (*setting.study, UNCONFIRMED, f"search.trials={setting.trials}", f"name=papers-{label}")
    config, saved = setting.loaded(*asked), winner_file(label)
    identity = _identity(config)
    if not saved.exists() or read_json(saved)["identity"] != identity:
        # Of another config it is another study; one that was interrupted goes on.
        studies = STUDIES / identity
        launch_study(examined(config, studies), console)
        found = {"identity": identity, "trials": setting.trials, **_found(studies / config.name)}
        write_json(saved, {**provenance("papers", commit), **found})
    arm = Arm.from_dict(read_json(saved)["arm"])
    # On its own it would have the critic of the comparison's config.
    return Candidate(WINNER, Arm.with_critic(WINNER, arm.shape, arm.critic or config.ppo.critic))


def winner_file(label: str) -> Path:
    """Return where a study's winner is saved."""
    return RESULTS / f"papers-{label}-winner.json"


def _found(study: Path) -> dict[str, Any]:
    winner = read_json(study / "winner.json")
    # As before there were records: the winner files in results/ are in this order and this form.
    folders = sorted((study / "trials").glob("*"))
    trials = [
        {"trial": read_json(path / "trial.json"), "J": list(summary[1]["objective"])}
        for path in folders
        if (summary := TrialFiles(path).summary()) is not None
    ]
    return {"arm": {name: winner[name] for name in ("name", "shape", "critic")}, "searched": trials}


def _identity(config: StudyConfig) -> str:
    # Where it runs decides in which order trials end, but not what is asked.
    values = config.model_dump(mode="json", exclude={"executor", "storage"})
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
