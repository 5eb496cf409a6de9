"""Ends what makes no progress: a worker process from outside, a run in this process by an alarm."""

from __future__ import annotations

import faulthandler
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

from pipeline.trials.failures import HUNG
from shaping.errors import TrialFailed


class WorkerWatch:
    """Ends this process when it stays silent; a thread of its own sees to it, whatever the process is stuck in.

    Args:
        minutes: How long it may be silent.
        dump: Where the stacks of all threads are written before the end.
    """

    def __init__(self, minutes: float, dump: Path) -> None:
        self._seconds, self._dump = 60 * minutes, dump
        self._file: IO[str] | None = None

    def progressed(self) -> None:
        """Begin to wait anew."""
        if self._file is None:
            self._dump.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._dump.open("w", encoding="utf-8")
        faulthandler.dump_traceback_later(self._seconds, exit=True, file=self._file)

    def rests(self) -> None:
        """Wait for nothing until there is progress again."""
        faulthandler.cancel_dump_traceback_later()

    def close(self) -> None:
        """Wait for nothing any more."""
        self.rests()
        if self._file is not None:
            self._file.close()
            self._file = None
            self._dump.unlink(missing_ok=True)


@contextmanager
def alarm(minutes: float) -> Iterator[None]:
    """Raise ``TrialFailed`` (``hung``) where the block takes longer.

    Python's code and waiting system calls are interrupted, a library's loop is not before it returns. Only the main
    thread has alarms; elsewhere there is none.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise TrialFailed(HUNG, silence(minutes))

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def silence(minutes: float) -> str:
    """Return in words that nothing was heard for so long."""
    return f"no training step for {minutes:g} minutes (executor.stall_minutes)"
