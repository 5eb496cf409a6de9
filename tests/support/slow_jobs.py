"""A benchmark's job that can be held up; processes that are started afresh can import it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import wait_until

# Jobs before this one are never held up.
HELD_FROM = 2


@dataclass(frozen=True)
class Done:
    number: int

    def line(self) -> str:
        return str(self.number)


def slow(number: int, mark: str) -> Done:
    """Note that the job began in the folder ``BEGUN``; end once ``go on`` stands beside that."""
    folder = os.environ.get("BEGUN")
    if folder:
        Path(folder, str(number)).touch()
        if number >= HELD_FROM:
            wait_until(Path(folder).with_name("go on").exists, "the job may go on")
    return Done(number)
