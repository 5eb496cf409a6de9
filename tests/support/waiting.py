"""Waiting for events: a limit is there to end what hangs, so it is minutes where the event takes seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

import pytest

# Far beyond what anything here takes, on a machine with eight times as much to do as it can.
LIMIT_SECONDS = 600.0
LIMIT_MS = 1000 * LIMIT_SECONDS
POLL_SECONDS = 0.05
TAIL_LINES = 25

Result = TypeVar("Result")


class Started(Protocol):
    """A process that a test has started."""

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...


class CouldNotStart(Exception):
    """What a test needs did not come up, which says nothing of what it tests.

    Args:
        what: A sentence.
        log: What it printed, of which the end is shown, once.
    """

    def __init__(self, what: str, log: str = "") -> None:
        super().__init__(what)
        self.what, self._log = what, log
        self._told = False

    def told(self) -> str:
        """Return the sentence, with the end of the log the first time."""
        log = "as above" if self._told else tail(self._log)
        self._told = True
        return f"{self.what}: {log}"


def tail(log: str, lines: int = TAIL_LINES) -> str:
    """Return a log's last lines."""
    return "\n".join(log.rstrip().splitlines()[-lines:]) or "it said nothing"


def wait_until(
    condition: Callable[[], Result],
    what: str,
    seconds: float = LIMIT_SECONDS,
    process: Started | None = None,
    log: Callable[[], str] = str,
) -> Result:
    """Return the condition's first result that counts as true; the test fails where none comes.

    Args:
        condition: Asked again and again.
        what: What is waited for, as in "the server answers".
        seconds: After which nobody waits any longer.
        process: Without which it will not happen.
        log: Gives what its process printed.
    """
    until = time.monotonic() + seconds
    while True:
        # Asked last after the process has ended: what it did at its end counts.
        ended, late = process is not None and process.poll() is not None, time.monotonic() > until
        result = condition()
        if result:
            return result
        if ended or late:
            why = f"its process ended with {process.returncode}" if ended and process else f"waited {seconds:g} seconds"
            pytest.fail(f"waited for this in vain: {what} ({why}); {tail(log())}", pytrace=False)
        time.sleep(POLL_SECONDS)


def lines_of(path: Path) -> list[str]:
    """Return a file's lines; none, as long as it is not there."""
    return path.read_text().splitlines() if path.exists() else []
