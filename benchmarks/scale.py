"""What a study costs beside its training: per trial, as it grows; and how busy many slots stay.

    python -m pip install 'shapetune[postgresql]'
    python -m benchmarks.scale --storage postgresql+psycopg://USER@HOST/DATABASE

Two parts. *Overhead*: a study of 500 trials that train nothing, in this process, one after another: everything that
is left is the outer loop's proposals, the database and the study's files. *Efficiency*: trials that sleep 60 s under
Ray, as many at once as there are slots; the share of the slots' time that was slept, from the first trial's begin to
the last one's end. Processes of trials that sleep need no cores of their own, so that 16 slots fit on two.

Without ``--storage`` the first part runs on SQLite alone. A part that is not asked for stays as it was measured before;
with other trials, slots or seconds nothing is saved.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil
import torch

from benchmarks import cheap_trainer
from benchmarks.common.record import RESULTS, Claim, current_commit, machine, markdown, today, write
from pipeline.config.load import parse_config
from pipeline.config.schema import StudyConfig
from pipeline.executors.choose import make_executor
from pipeline.runtime.logging import quiet_libraries
from pipeline.storage.database import locked, study_database
from pipeline.study.folder import StudyFolder
from pipeline.study.prepared import PreparedStudy
from pipeline.study.study import StudySource
from pipeline.trials.task_models import ReadyModels
from pipeline.trials.types import Ending, Job, Progress

TRIALS = 500
SLOTS, WAVES, SLEEP_SECONDS = (1, 2, 4, 8, 16), 6, 60.0
PARTS = ("overhead", "efficiency")
# Trials are told apart by where in the study they stand.
BLOCK = 100
SQLITE, POSTGRESQL = "SQLite", "PostgreSQL"


class Clock:
    """Hears a study and notes when each trial ended, and what the process had used by then."""

    def __init__(self) -> None:
        self.first = self.last = 0.0
        self.wall: list[float] = []
        self.processor: list[float] = []
        self.resident: list[int] = []

    def started(self, stage: str, job: Job) -> None:
        """Note when the first trial begins."""
        self.first = self.first or time.monotonic()

    def progressed(self, stage: str, job: Job, progress: Progress) -> None:
        """Steps say nothing here."""

    def left(self, stage: str, job: Job) -> None:
        """Jobs say nothing here."""

    def retried(self, stage: str, job: Job, reason: str) -> None:
        """Raise: nothing may fail here."""
        raise RuntimeError(f"trial {job.index}: {reason}")

    def ended(self, stage: str, job: Job, ending: Ending) -> None:
        """Note a trial's end."""
        self.last = time.monotonic()
        self.wall.append(self.last)
        self.processor.append(time.process_time())
        self.resident.append(psutil.Process().memory_info().rss)


def main() -> None:
    """Run what is asked for and write ``results/scale.json``."""
    options, commit = _options(), current_commit()
    torch.set_num_threads(1)
    parts = saved_parts() | {name: _measured(name, options, commit) for name in options.parts}
    tables, claims = [], []
    if overhead := parts.get("overhead"):
        tables.append(f"{_source(overhead)}\n\n{overhead_table(overhead['found'])}")
        claims += overhead_claims(overhead["found"], overhead["settings"]["trials"])
    if efficiency := parts.get("efficiency"):
        found = {int(slots): share for slots, share in efficiency["found"].items()}
        rows = [(slots, WAVES * slots, f"{100 * share:.1f} %") for slots, share in found.items()]
        tables.append(f"{_source(efficiency)}\n\n{markdown(('slots', 'trials', 'of the time slept'), rows)}")
        claims += [Claim(f"scale.efficiency_{slots}", share, share, share, 1) for slots, share in found.items()]
    if (options.trials, tuple(options.slots), options.seconds) == (TRIALS, SLOTS, SLEEP_SECONDS):
        write("scale", claims, "\n\n".join(tables), parts, commit)
    else:
        print("\n\n".join(tables))


def saved_parts() -> dict[str, dict[str, Any]]:
    """Return what was measured before: part to commit, date, machine, settings and what was found."""
    path = RESULTS / "scale.json"
    details = json.loads(path.read_text())["details"] if path.exists() else {}
    return {name: details[name] for name in PARTS if name in details}


def _measured(part: str, options: argparse.Namespace, commit: str) -> dict[str, Any]:
    found: dict[Any, Any]
    if part == "overhead":
        storages = {SQLITE: None} | ({POSTGRESQL: options.storage} if options.storage else {})
        found = {name: measured_overhead(url, options.trials) for name, url in storages.items()}
    else:
        found = {slots: measured_efficiency(slots, options.seconds) for slots in options.slots}
    source = {"commit": commit, "date": today(), "machine": machine()}
    return {**source, "settings": _settings(options), "found": found}


def _source(part: dict[str, Any]) -> str:
    return f"Commit {part['commit']}, {part['date']}, {part['machine']}:"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--storage", help="A PostgreSQL database's address, whose password libpq finds.")
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--slots", nargs="+", type=int, default=list(SLOTS))
    parser.add_argument("--seconds", type=float, default=SLEEP_SECONDS, help="that each trial sleeps")
    return parser.parse_args()


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    return {"trials": options.trials, "waves": WAVES, "sleep_seconds": options.seconds, "slots": options.slots}


def _config(trials: int, seconds: float, slots: int, executor: str, url: str | None) -> StudyConfig:
    return parse_config(
        {
            "name": f"scale-{trials}-{time.time_ns()}",
            "trainer": {"function": f"{cheap_trainer.__file__}:train", "options": {"seconds": seconds}},
            "ppo": {"steps": 1},
            "search": {"trials": trials, "seeds": [0]},
            "confirm": {"seeds": []},
            "executor": {"name": executor, "slots": slots},
            "storage": url,
        },
        "scale",
    )


def run(config: StudyConfig, folder: StudyFolder) -> Clock:
    """Return when a study's trials ended."""
    clock = Clock()
    folder.create(config)
    with quiet_libraries(), locked(study_database(config.storage, folder.root), config.name):
        make_executor(config.executor).run(StudySource(PreparedStudy(config, folder, ReadyModels()), clock))
    return clock


def measured_overhead(url: str | None, trials: int) -> dict[str, list[float]]:
    """Return seconds of each trial, processor seconds of each, and resident MiB after each."""
    with tempfile.TemporaryDirectory() as place:
        clock = run(_config(trials, 0.0, 1, "local", url), StudyFolder(Path(place) / "study"))
    wall = [clock.first, *clock.wall]
    return {
        "wall_seconds": [round(after - before, 4) for before, after in pairwise(wall)],
        "cpu_seconds": [round(after - before, 4) for before, after in pairwise(clock.processor)],
        "resident_mib": [round(each / 2**20, 1) for each in clock.resident],
    }


def measured_efficiency(slots: int, seconds: float) -> float:
    """Return the share of the slots' time that was slept."""
    trials = WAVES * slots
    with tempfile.TemporaryDirectory() as place:
        clock = run(_config(trials, seconds, slots, "ray", None), StudyFolder(Path(place) / "study"))
    share = trials * seconds / (slots * (clock.last - clock.first))
    print(json.dumps({"slots": slots, "efficiency": share}), file=sys.stderr, flush=True)
    return share


def overhead_table(overhead: dict[str, dict[str, list[float]]]) -> str:
    """Return means over blocks of trials."""
    rows = []
    for name, measured in overhead.items():
        count = len(measured["wall_seconds"])
        for begin in range(0, count, BLOCK):
            block = slice(begin, begin + BLOCK)
            rows.append(
                (
                    name,
                    f"{begin + 1} to {min(begin + BLOCK, count)}",
                    f"{fmean(measured['wall_seconds'][block]):.2f}",
                    f"{fmean(measured['cpu_seconds'][block]):.2f}",
                    f"{measured['resident_mib'][block][-1]:.0f}",
                )
            )
    return markdown(("database", "trials", "seconds a trial", "CPU seconds", "resident MiB at the end"), rows)


def overhead_claims(overhead: dict[str, dict[str, list[float]]], trials: int) -> list[Claim]:
    """Return the mean seconds a trial, over all; that of PostgreSQL under a name of its own."""
    names = {SQLITE: f"scale.overhead_seconds_per_trial_{trials}"}
    names[POSTGRESQL] = f"{names[SQLITE]}_postgresql"
    return [Claim.of(names[name], measured["wall_seconds"]) for name, measured in overhead.items()]


if __name__ == "__main__":
    main()
