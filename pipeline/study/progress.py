"""Keeps how far a launch is in its study's folder, for ``pipeline.study.launch_progress``."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.trials.run import write_json

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
