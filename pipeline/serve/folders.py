"""Studies of folders: their reports, remade when a file of theirs changes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pipeline.report.load import load_report_data
from pipeline.report.page import Live, render
from pipeline.serve.source import Entry, UnknownStudy, Version, key_of, mark_of
from pipeline.study.folder import StudyFolder
from pipeline.study.status import Standing, best_of, read_standing
from shaping.errors import ShapetuneError
from shaping.printable import printable

BROKEN = "cannot be read"


class FolderSource:
    """One study's folder, or a folder of such folders.

    Args:
        root: The folder; there is one.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        one = (self._root / "study.yaml").is_file()
        self.place = printable(self._root.name)
        self.only = key_of(self._root.name) if one else None
        self._standings: dict[Path, tuple[str, Standing]] = {}

    def entries(self) -> list[Entry]:
        """Return the studies, those that run first."""
        found = [self._entry(key, folder) for key, folder in self._folders().items()]
        return sorted(found, key=lambda entry: (not entry.running, entry.name))

    def _folders(self) -> dict[str, StudyFolder]:
        """Return the studies that there are by key; what a request names is looked up here and joined to no path."""
        roots = [self._root] if self.only else [path for path in self._root.iterdir() if path.is_dir()]
        return {key_of(path.name): StudyFolder(path) for path in roots if (path / "study.yaml").is_file()}

    def _folder(self, key: str) -> StudyFolder:
        try:
            return self._folders()[key]
        except KeyError:
            raise UnknownStudy(key) from None

    def _entry(self, key: str, folder: StudyFolder) -> Entry:
        name = printable(folder.root.name)
        try:
            standing = self._standing(folder)
        except (ShapetuneError, OSError) as error:
            return Entry(key, name, BROKEN, more=_said(error))
        best = best_of(standing.rows)
        return Entry(
            key=key,
            name=name,
            state=standing.stage,
            trials=f"{standing.ended_trials} of {standing.plan.trials}",
            best=None if best is None else float(best["J"]),
            more=printable(standing.left or standing.verdict or ""),
            running=standing.runner is not None,
        )

    def _standing(self, folder: StudyFolder) -> Standing:
        """Return where a study stands; its files are read again only after they changed."""
        mark = mark_of(*_files(folder), *_stat(folder.progress_file))
        kept = self._standings.get(folder.root)
        if kept is None or kept[0] != mark:
            kept = self._standings[folder.root] = (mark, read_standing(folder))
        # A process may end without a word.
        return replace(kept[1], runner=folder.runner())

    def version(self, key: str) -> Version:
        """Return the state of a study's page: of the files that its report is made from."""
        folder = self._folder(key)
        try:
            now = printable(self._standing(folder).describe())
        except (ShapetuneError, OSError):
            now = BROKEN
        return Version(mark_of(*_files(folder)), now)

    def page(self, key: str, live: Live) -> str:
        """Return a study's report."""
        return render(load_report_data(self._folder(key), modelled=True), live)


def _said(error: ShapetuneError | OSError) -> str:
    return error.message if isinstance(error, ShapetuneError) else printable(str(error))


def _files(folder: StudyFolder) -> Iterator[str]:
    """Yield name, size and time of every file that a report is made from."""
    kept = [folder.config_file, folder.verdict_file, folder.winner_file, folder.ranking_file]
    for path in (*kept, folder.sensitivity_file, folder.tokens_file):
        yield from _stat(path)
    for place in (folder.trials, folder.confirm):
        for path in sorted(place.glob("*/*.json")):
            yield from _stat(path)


def _stat(path: Path) -> Iterator[str]:
    try:
        found = os.stat(path)
    except OSError:
        return
    yield f"{path} {found.st_size} {found.st_mtime_ns} {found.st_ino}"
