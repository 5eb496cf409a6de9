"""Studies of a database: their trials as it holds them, read anew at most every few seconds."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

from pipeline.config.database_url import check_url
from pipeline.report.page import Live
from pipeline.serve.pages import stored_page
from pipeline.serve.source import Entry, UnknownStudy, Version, key_of, mark_of
from pipeline.storage.database import Database
from pipeline.study.database_status import read_stored_status, read_stored_studies, who_runs

SECONDS_BETWEEN = 3.0
FIELD = "serve"


class DatabaseSource:
    """The studies of one database.

    Args:
        url: Its address.
        clock: Seconds.

    Raises:
        ConfigError: The address cannot be used.
        ShapetuneError: The database cannot be reached or read.
    """

    only: str | None = None

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        # Without a password, which a page must not show; the address has none anyway.
        self.place = Database(check_url(url, FIELD)).shown
        self._url, self._clock, self._lock = url, clock, threading.Lock()
        self._read: dict[str, tuple[float, Any]] = {}
        self._studies()

    def entries(self) -> list[Entry]:
        """Return the studies, those that run first."""
        found = [self._entry(row) for row in self._studies()]
        return sorted(found, key=lambda entry: (not entry.running, entry.name))

    def version(self, key: str) -> Version:
        """Return the state of a study's page: of its rows."""
        found = self._status(key)
        counts = [f"{sum(row['state'] == state for row in found['trials'])} {state}" for state in _states(found)]
        return Version(mark_of(json.dumps(found)), f"{who_runs(found['running'])}; {', '.join(counts) or 'no trial'}")

    def page(self, key: str, live: Live) -> str:
        """Return a study's trials."""
        return stored_page(self._status(key), self.place, live)

    def _studies(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._recent("", lambda: read_stored_studies(self._url))
        return found

    def _status(self, key: str) -> dict[str, Any]:
        name = next((row["study"] for row in self._studies() if key_of(row["study"]) == key), None)
        if name is None:
            raise UnknownStudy(key)
        found: dict[str, Any] = self._recent(f"study {name}", lambda: read_stored_status(self._url, name))
        return found

    def _recent(self, what: str, read: Callable[[], Any]) -> Any:
        """Return what was read a moment ago, whoever asked for it, or read it."""
        with self._lock:
            kept = self._read.get(what)
            if kept is None or self._clock() - kept[0] >= SECONDS_BETWEEN:
                kept = self._read[what] = (self._clock(), read())
            return kept[1]

    def _entry(self, row: dict[str, Any]) -> Entry:
        counts = ", ".join(f"{count} {state}" for state, count in row["trials"].items() if count)
        began = row["begun_by"]
        return Entry(
            key=key_of(row["study"]),
            name=row["study"],
            state=who_runs(row["running"]),
            trials=counts or "none",
            best=row["best_J"],
            more=f"begun by {began['user']} on {began['host']}, {began['folder']}" if began["user"] else "",
            running=row["running"] is not None,
        )


def _states(found: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["state"] for row in found["trials"]))
