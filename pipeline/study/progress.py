"""How far a launch is: written into the study's folder as it runs, read by whoever looks from elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.schema import StudyConfig
from pipeline.runtime.files import DamagedFileError, read_saved, write_json
from pipeline.study.folder import StudyFolder
from pipeline.trials.records import TrialFiles

SEARCH, CONFIRM = "search", "confirm"
STAGES = {SEARCH: "searching shapes", CONFIRM: "confirming on fresh seeds"}
# A file of a few hundred bytes; who watches looks no more often.
SECONDS_BETWEEN = 1.0


class ProgressFile:
    """Writes the file: at most once a second, and whenever a run starts or ends.

    Args:
        path: The file.
        clock: Seconds.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock, self._written = path, clock, -SECONDS_BETWEEN

    def write(self, values: Callable[[], dict[str, Any]], at_once: bool = False) -> None:
        """Write what ``values`` returns, if it is time; a disk that takes nothing is the study's to speak of."""
        if at_once or self._clock() - self._written >= SECONDS_BETWEEN:
            with suppress(OSError):
                write_json(self._path, values())
            self._written = self._clock()


@dataclass(frozen=True)
class RunOut:
    """A run that a launch has handed out and not got back.

    Attributes:
        stage: ``search`` or ``confirm``.
        index: Its trial's; -1 in the confirmation.
        arm: Its arm's name.
        seed: Its seed.
        done_steps: Its training steps so far.
    """

    stage: str
    index: int
    arm: str
    seed: int
    done_steps: int


@dataclass(frozen=True)
class LaunchProgress:
    """What a launch last said of itself.

    Attributes:
        run_steps: Training steps of a run.
        done: Stage to steps that need not be made any more.
        total: Stage to planned steps.
        runs: What was out.
        seconds_left: ``None`` where nobody knows yet.
    """

    run_steps: int
    done: dict[str, int]
    total: dict[str, int]
    runs: tuple[RunOut, ...]
    seconds_left: float | None


def read_progress(path: Path) -> LaunchProgress | None:
    """Return what the launch last said, or ``None`` where it said nothing that can be read: nothing depends on it."""
    try:
        return read_saved(path, _progress)
    except (DamagedFileError, OSError):
        return None


def _progress(kept: dict[str, Any]) -> LaunchProgress:
    stages, left = kept["stages"], kept["seconds_left"]
    if int(kept["run_steps"]) < 1 or not math.isfinite(left or 0.0):
        raise ValueError("no launch writes that")
    return LaunchProgress(
        run_steps=int(kept["run_steps"]),
        done={str(name): int(each["done_steps"]) for name, each in stages.items()},
        total={str(name): int(each["total_steps"]) for name, each in stages.items()},
        runs=tuple(_run(run) for run in kept["runs"]),
        seconds_left=None if left is None else float(left),
    )


def _run(values: dict[str, Any]) -> RunOut:
    return RunOut(
        str(values["stage"]),
        int(values["index"]),
        str(values["arm"]),
        int(values["seed"]),
        int(values["done_steps"]),
    )


def finished_runs(folder: Path) -> int:
    """Return the finished runs of a study's trials or confirmation; those that were taken over are not counted.

    Args:
        folder: ``StudyFolder.trials`` or ``StudyFolder.confirm``.
    """
    return sum(files.count_runs() for files in _trained_here(folder))


def ended_search_runs(config: StudyConfig, folder: StudyFolder) -> int:
    """Return the search's runs that need not be made any more: those of a trial that was given up will never be."""
    all_seeds = len(config.search.seeds)
    trials = _trained_here(folder.trials)
    return sum(all_seeds if files.has_stop or files.has_failure else files.count_runs() for files in trials)


def _trained_here(folder: Path) -> list[TrialFiles]:
    found = [TrialFiles(path) for path in folder.glob("*")]
    return [files for files in found if (record := files.record()) is None or not record.is_taken_over]
