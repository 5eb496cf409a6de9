"""Quickstart studies under other seeds, each in a process of its own, and what they found."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from benchmarks.common.cache import ROOT
from pipeline.config.load import find_config, load_config
from pipeline.runtime.files import read_lines
from pipeline.study.confirm_stage import confirmation_runs
from pipeline.study.folder import StudyFolder
from pipeline.study.verdict import CREDIT
from pipeline.trials.arm import WINNER

STUDIES = ROOT / "build" / "quickstart"
# The config's own seeds lie below; no two studies share one.
FIRST_SEARCH_SEED, FIRST_FRESH_SEED, APART = 1_000, 2_000, 10


@dataclass(frozen=True)
class Found:
    """What one study found.

    Attributes:
        seed: Which study.
        winner: Of the search, in words.
        objective: The winner's mean J on fresh seeds; ``None`` where nothing was confirmed.
        best_rival: The rival with the highest mean J on the same seeds.
        gain: Mean J of the winner less that rival's. The rival is chosen after the fact, which favours it.
        bounds: Parameters on whose bounds the winner stands.
        commit: Of the code that it ran with.
    """

    seed: int
    winner: str
    objective: float | None
    best_rival: str | None
    gain: float | None
    bounds: tuple[str, ...]
    commit: str = "unknown"


def changes(seed: int, is_confirmed: bool) -> tuple[str, ...]:
    """Return what a study has other than the quickstart."""
    config = load_config(find_config("quickstart"))
    fresh = [FIRST_FRESH_SEED + APART * seed + place for place in range(len(config.confirm.seeds))]
    first = FIRST_SEARCH_SEED + APART * seed
    searched = [first + place for place in range(len(config.search.seeds))]
    return (
        f"name=quickstart-{seed}",
        f"search.seed={seed + 1}",
        f"search.seeds={searched}",
        f"confirm.seeds={fresh if is_confirmed else []}",
    )


def run_study(seed: int, is_confirmed: bool) -> Path:
    """Return the folder of a finished study, running it where it has not finished.

    Raises:
        CalledProcessError: It came to nothing.
    """
    config = load_config(find_config("quickstart"), changes(seed, is_confirmed))
    # Of another config it is another study; one that was interrupted goes on.
    plain = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    studies = STUDIES / hashlib.sha256(plain.encode()).hexdigest()[:16]
    folder = studies / config.name
    if not StudyFolder(folder).report_file.exists():
        said = [each for change in changes(seed, is_confirmed) for each in ("--set", change)]
        command = [sys.executable, "-m", "pipeline", "launch", "quickstart", "--studies", str(studies), *said]
        subprocess.run(command, check=True, cwd=ROOT)
    return folder


def found_by(path: Path) -> Found:
    """Return what a finished study found."""
    folder = StudyFolder(path)
    winner = folder.winner()
    assert winner is not None, path
    means = {
        name: fmean(float(run.evaluation["objective"]) for run in runs)
        for name, runs in confirmation_runs(folder).items()
    }
    own = means.get(WINNER)
    rivals = {name: mean for name, mean in means.items() if name != WINNER and not name.startswith(CREDIT)}
    best = max(rivals, key=lambda name: rivals[name], default=None)
    return Found(
        seed=int(path.name.rpartition("-")[2]),
        winner=winner.candidate.describe(),
        objective=own,
        best_rival=best,
        gain=None if own is None or best is None else own - rivals[best],
        bounds=tuple(each.parameter for each in folder.bounds() if each.by_winner),
        commit=_commit(folder),
    )


def _commit(folder: StudyFolder) -> str:
    launches = read_lines(folder.provenance_file)
    return str(launches[-1].get("commit", "unknown")) if launches else "unknown"
