"""What ``shapetune status`` does: finds the study or the database, and prints it in the form that was asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from pipeline.commands.status_table import status_view
from pipeline.runtime.csv import write_csv
from pipeline.runtime.watch import watch
from pipeline.study.folder import StudyFolder
from pipeline.study.standing import read_standing
from pipeline.study.status import read_status
from shaping.errors import ConfigError


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
            return stored.stored_studies_view(found), any(row["running"] for row in found)

        return _Shown(partial(stored.read_stored_studies, storage), lambda found: found, look_at_all)

    def look(width: int, height: int | None) -> tuple[RenderableType, bool]:
        found = stored.read_stored_status(storage, study)
        return stored.stored_status_view(found, width, height), found["running"] is not None

    return _Shown(partial(stored.read_stored_status, storage, study), lambda found: found["trials"], look)
