"""What ``shapetune status`` does: finds the study or the database, and prints it in the form that was asked for."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipeline.runtime.console import watch
from pipeline.runtime.csv import write_csv
from pipeline.study.folder import StudyFolder
from pipeline.study.progress import CONFIRM, RunOut
from pipeline.study.status import Standing, best_of, read_standing, read_status, tried_in_words
from shaping.errors import ConfigError
from shaping.printable import printable


@dataclass(frozen=True)
class _Shown:
    """What can be shown: as plain values, as rows, and as a picture of a width and a height."""

    read: Callable[[], Any]
    rows: Callable[[Any], list[Mapping[str, Any]]]
    look: Callable[[int, int | None], tuple[RenderableType, bool]]


def show(study: str | None, storage: str | None, form: str, again: bool, console: Console) -> None:
    """Print a study, or a database's studies.

    Args:
        study: A study's folder; with ``storage``, its name there, or ``None`` for all.
        storage: A database's address; ``None`` for a folder.
        form: ``table``, ``json`` or ``csv``.
        again: Whether to redraw the table until nobody runs the study any more.
        console: Where tables are printed.

    Raises:
        ConfigError: There is no such study, or what was asked for cannot be had together.
        ShapetuneError: What is there cannot be read.
    """
    if again and form != "table":
        raise ConfigError(f"--watch and --{form} cannot be had together", "leave one of them out")
    shown = _stored(storage, study) if storage is not None else _folder(study)
    if form == "json":
        print(json.dumps(shown.read(), indent=1))
    elif form == "csv":
        write_csv(shown.rows(shown.read()), sys.stdout)
    elif again:
        watch(lambda height: shown.look(console.width, height), console)
    else:
        console.print(shown.look(console.width, None)[0])


def _folder(study: str | None) -> _Shown:
    if study is None:
        raise ConfigError("status needs a study", "give its folder, or a database with --storage")
    folder = StudyFolder.existing(Path(study))

    def look(width: int, height: int | None) -> tuple[RenderableType, bool]:
        standing = read_standing(folder)
        return status_view(standing, width, height), standing.runner is not None

    return _Shown(partial(read_status, folder), lambda found: found, look)


def _stored(storage: str, study: str | None) -> _Shown:
    from pipeline.study import database_status as stored

    if study is None:

        def look_at_all(width: int, height: int | None) -> tuple[RenderableType, bool]:
            found = stored.read_stored_studies(storage)
            return stored_studies_view(found), any(row["running"] for row in found)

        return _Shown(partial(stored.read_stored_studies, storage), lambda found: found, look_at_all)

    def look(width: int, height: int | None) -> tuple[RenderableType, bool]:
        found = stored.read_stored_status(storage, study)
        return stored_status_view(found, width, height), found["running"] is not None

    return _Shown(partial(stored.read_stored_status, storage, study), lambda found: found["trials"], look)


HEADINGS = ("trial", "origin", "J", "KL")
# Two blanks between columns; what stands in the last one is never squeezed below this.
GAP, NARROWEST_LAST = 2, 24
# A name that is longer is cut: somebody else may have written it.
LONGEST_ORIGIN = 13
NOTHING = "no trial has started yet"
NO_BREAK = "\u00a0"


def status_view(standing: Standing, width: int, height: int | None = None) -> Group:
    """Return what ``shapetune status`` shows of a study: where it stands, its trials, and the best so far.

    Args:
        standing: The study.
        width: Of the terminal, in columns.
        height: Lines that it may take; ``None`` for as many as it needs.
    """
    head = [f"{standing.plan.name}: {standing.describe()}"]
    if standing.runner is not None:
        head.append(f"runs on {standing.runner}")
    elif not standing.ended:
        head.append("shapetune launch resumes it")
    confirming = [run for run in standing.runs if run.stage == CONFIRM]
    if confirming and standing.progress is not None:
        now = ", ".join(_confirming(run, standing.progress.run_steps) for run in confirming)
        head.append(f"now: {now}")
    lines = _folded([*head, ""], width)
    said = [] if standing.verdict is None else [standing.verdict]
    tail = _folded([*said, *standing.bounds], width) if said or standing.bounds else []
    rest = None if height is None else height - len(lines) - len(tail)
    return Group(*lines, *trial_lines(standing.rows, width, standing.runner is not None, rest), *tail)


def _folded(texts: list[str], width: int) -> list[Text]:
    return [Text(line) for text in texts for line in textwrap.wrap(printable(text), width) or [""]]


def _confirming(run: RunOut, steps: int) -> str:
    return f"{run.arm}, seed {run.seed}: {run.done_steps} of {steps} steps"


def trial_lines(
    rows: list[dict[str, Any]], width: int, running: bool, height: int | None = None
) -> Iterator[RenderableType]:
    """Yield the table of trials and the line of the best one.

    Args:
        rows: As ``read_status`` and ``read_stored_status`` return them.
        width: Of the terminal, in columns.
        running: Whether anybody runs the study; trials that have not ended are unfinished where nobody does.
        height: Lines that it may take; the first trials are left out where they are more.
    """
    if not rows:
        yield Text(NOTHING)
        return
    cells = [_cells(row, running) for row in rows]
    taken = [max(map(len, column)) + GAP for column in zip(HEADINGS, *cells, strict=True)]
    said = [_said(row, max(width - sum(taken), NARROWEST_LAST)) for row in rows]
    first = 0 if height is None else _first_shown([max(len(lines), 1) for lines in said], height)
    if first:
        yield Text(f"the first {first} trials are not shown: the window is too low")
    yield _table(cells[first:], said[first:])
    best = best_of(rows)
    if best is not None:
        yield Text(f"best observed J so far: {best['J']:+z.3f}, trial {best['index']}")


def _first_shown(lines: list[int], height: int) -> int:
    """Return the first of the last trials that fit with heading, best, and the line that says what is left out."""
    if sum(lines) + 2 <= height:
        return 0
    return next((first for first in range(len(lines)) if sum(lines[first:]) + 3 <= height), len(lines) - 1)


def _table(cells: Sequence[tuple[str, ...]], said: Sequence[list[str]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name, side in zip(HEADINGS, ("right", "left", "left", "right"), strict=True):
        table.add_column(name, justify=side, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("shape, and why it ended early", overflow="fold")
    for shown, lines in zip(cells, said, strict=True):
        table.add_row(*map(escape, shown), escape("\n".join(lines)))
    return table


def _cells(row: dict[str, Any], running: bool) -> tuple[str, str, str, str]:
    error = row["J_standard_error"]
    result = row["state"]
    if row["J"] is not None:
        result = f"{row['J']:+z.3f}" + ("" if error is None else f" ± {error:.3f}")
    elif result == "running":
        steps = f"{row['steps']} of {row['total_steps']} steps" if row["total_steps"] else "running"
        result = steps if running else "unfinished"
    kl = "" if row["kl_nats"] is None else f"{row['kl_nats']:z.1f}"
    return str(row["index"]), printable(row["origin"]).replace("\n", " ")[:LONGEST_ORIGIN], result, kl


def _said(row: dict[str, Any], width: int) -> list[str]:
    """Return what was tried and the reason in lines that fit."""
    return [
        *folded_shape(tried_in_words(row), width),
        *textwrap.wrap(printable(row["reason"]), width, break_on_hyphens=False),
    ]


def folded_shape(described: str, width: int) -> list[str]:
    """Return a shape's description in lines, cut between its methods and never inside one."""
    unbroken = printable(described).replace(" ", NO_BREAK)
    for between in ("+", ",", ";"):
        unbroken = unbroken.replace(between + NO_BREAK, between + " ")
    return [line.replace(NO_BREAK, " ") for line in textwrap.wrap(unbroken, width, break_on_hyphens=False)]


def stored_status_view(found: Mapping[str, Any], width: int, height: int | None = None) -> Group:
    """Return what is printed of a study: its trials, the best so far, and who runs it.

    Args:
        found: As ``read_stored_status`` returns it.
        width: Of the terminal, in columns.
        height: Lines that it may take; ``None`` for as many as it needs.
    """
    who = Text(_who_runs(found["running"]))
    rest = None if height is None else height - 1
    return Group(*trial_lines(found["trials"], width, found["running"] is not None, rest), who)


def stored_studies_view(found: list[dict[str, Any]]) -> RenderableType:
    """Return what is printed of a database's studies, one a line."""
    if not found:
        return Text("no study is kept there yet")
    table = Table(box=None, pad_edge=False)
    for name in ("study", "trials", "best J", "now", "begun by"):
        table.add_column(name, overflow="fold")
    for row in found:
        counts = ", ".join(f"{count} {state}" for state, count in row["trials"].items() if count)
        best = "" if row["best_J"] is None else f"{row['best_J']:+z.3f}"
        began = row["begun_by"]
        where = f"{began['user']} on {began['host']}, {began['folder']}" if began["user"] else ""
        table.add_row(*map(escape, (row["study"], counts or "none", best, _who_runs(row["running"]), where)))
    return table


def _who_runs(running: Mapping[str, Any] | None) -> str:
    # With the database's library, which a study's own folder does not need.
    from pipeline.study.database_status import who_runs

    return who_runs(running)
