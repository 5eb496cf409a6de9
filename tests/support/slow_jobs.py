"""A benchmark's job that takes its time; processes that are started afresh can import it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

# A job's.
SECONDS = 1.0


@dataclass(frozen=True)
class Done:
    number: int

    def line(self) -> str:
        return str(self.number)


def slow(number: int, mark: str) -> Done:
    folder = os.environ.get("BEGUN")
    if folder:
        Path(folder, str(number)).touch()
    time.sleep(SECONDS)
    return Done(number)
