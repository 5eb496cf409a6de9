"""Attempts of runs that failed, as the folders of their trials tell them: those that were tried again, and the last."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.runtime.files import read_lines, understood

AGAIN, WAITS, GIVEN_UP = "tried again", "to be tried again", "given up"


@dataclass(frozen=True)
class Attempt:
    """One failed attempt of a run.

    Attributes:
        seeds: Of the run; almost always one.
        at: When it was noted, in ISO 8601.
        reason: A short name.
        detail: One line.
        then: What became of the run: ``tried again``, ``to be tried again``, or ``given up``.
    """

    seeds: tuple[int, ...]
    at: str
    reason: str
    detail: str
    then: str

    @property
    def was_retried(self) -> bool:
        """Whether another attempt followed, or will."""
        return self.then != GIVEN_UP


def read_attempts(folder: Path) -> tuple[Attempt, ...]:
    """Return the failed attempts of a trial's folder, oldest first.

    Raises:
        DamagedFileError: A line is not what shapetune writes; one that was cut off is left out.
    """
    found: list[Attempt] = []
    for path in sorted(folder.glob("failures-*.jsonl")):
        with understood(path):
            lines = [(tuple(int(seed) for seed in line["seeds"]), line) for line in read_lines(path)]
            last = len(lines) - 1
            found += [_attempt(seeds, line, folder, place == last) for place, (seeds, line) in enumerate(lines)]
    return tuple(sorted(found, key=lambda attempt: attempt.at))


def _attempt(seeds: tuple[int, ...], line: dict[str, Any], folder: Path, is_last: bool) -> Attempt:
    then = AGAIN
    ended = (folder / "result.json").exists() or all((folder / f"seed-{seed}.json").exists() for seed in seeds)
    if is_last and not ended:
        then = GIVEN_UP if (folder / "failure.json").exists() else WAITS
    return Attempt(seeds, str(line["at"]), str(line["reason"]), str(line["detail"]), then)
