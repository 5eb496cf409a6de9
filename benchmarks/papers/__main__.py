"""The papers' methods, their controls and the study's winner, tuned alike and run on fresh seeds.

    python -m pip install 'shapetune[bench,instruction]'
    python -m benchmarks.papers
    python -m benchmarks.papers --tasks instruction-smollm2
    python -m benchmarks.papers --tasks

For each task a study is launched first, whose winner takes part. Then every method is tuned over the same values of
lambda and, where the reward model can be one, over critics, on the seeds that the study searched with, and what was
best is run on fresh seeds.
Every run is saved in ``results/papers-TASK.csv`` as it ends and is not made again; tasks that were not asked for are
shown from what is saved, without their models: the last command builds none. Wall times are those of runs side by side,
one thread each.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch

from benchmarks.common.cache import ROOT
from benchmarks.common.record import RESULTS, current_commit, show, write
from benchmarks.papers.comparison import Comparison, Unfinished, compare, is_complete
from benchmarks.papers.overview import draw_overview, overview_table
from benchmarks.papers.pictures import draw
from benchmarks.papers.runs import runs_file
from benchmarks.papers.settings import SETTINGS
from benchmarks.papers.tables import claims, shown, text
from pipeline.runtime.console import open_console

OVERVIEW = RESULTS / "papers.png"
TINY = ("sentiment", "sentiment-encoder", "instruction", "summarization")


def main() -> None:
    """Make what is missing and write ``results/papers.json``, tables, pictures and the documentation's."""
    options, commit = _options(), current_commit()
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    console, found = open_console(stderr=True), dict[str, Comparison]()
    for label, setting in SETTINGS.items():
        # A task that was not asked for is only read.
        workers = options.workers if label in options.tasks else 0
        if not workers and not runs_file(label).exists():
            continue
        if setting.like and setting.like not in found:
            raise SystemExit(f"{label} takes over what was chosen for {setting.like}: run that first")
        try:
            comparison = compare(label, setting, workers, commit, console, found.get(setting.like))
        except Unfinished:
            print(f"{label}: begun and not ended, left out", file=sys.stderr)
            continue
        if is_complete(comparison):
            draw(comparison, picture(label))
            found[label] = comparison
    _write(list(found.values()), commit)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", default=list(TINY), choices=list(SETTINGS))
    parser.add_argument("--workers", type=int, default=2, help="Runs side by side.")
    return parser.parse_args()


def picture(label: str) -> Path:
    """Return where a task's picture is saved."""
    return RESULTS / f"papers-{label}.png"


def _write(found: list[Comparison], commit: str) -> None:
    details: dict[str, object] = {
        comparison.label: {
            "config": comparison.config.model_dump(mode="json"),
            "chosen": {name: each.arm.to_dict() for name, each in comparison.chosen.items()},
            "settings_tried": dict(comparison.tried),
        }
        for comparison in found
    }
    every = [claim for comparison in found for claim in claims(comparison)]
    glance = overview_table(found)
    write("papers", every, "\n\n".join((glance, *map(text, found))), details, commit)
    draw_overview(found, OVERVIEW)
    image = f"![J of every method over tuned sparse PPO's, on every task]({_from_page(OVERVIEW)})"
    tasks = (shown(comparison, _from_page(picture(comparison.label))) for comparison in found)
    show("papers", "\n\n".join((glance, image, *tasks)))


def _from_page(path: Path) -> str:
    return f"../{path.relative_to(ROOT).as_posix()}"


if __name__ == "__main__":
    main()
