"""Where a report's numbers come from: versions, machines, files, and the attempts that failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline.report.run_record import RunRecord
from pipeline.runtime.environment import installed_version
from pipeline.runtime.files import read_lines, read_saved, understood
from pipeline.study.provenance import differing, last_noted, noted_in
from pipeline.trials.records import AttemptRecord, TrialFiles


@dataclass(frozen=True)
class Launch:
    """One launch of the study that had something to train.

    Attributes:
        at: When, in ISO 8601.
        commit: Of the code; ``None`` where it ran from no checkout.
        versions: Package to version; Python is one of them.
        machine: The launching one, in words.
        files: Config field to a hash of what the user's own file held; ``None`` where nobody looked.
    """

    at: str
    commit: str | None
    versions: dict[str, str]
    machine: str
    files: dict[str, str] | None = None


@dataclass(frozen=True)
class Stage:
    """What the finished runs of the search or of the confirmation took, all in all; ``None`` where nobody kept it."""

    name: str
    runs: int
    wall_seconds: float | None
    cpu_seconds: float | None
    credit_tokens: int | None


@dataclass(frozen=True)
class Provenance:
    """Where the results come from.

    Attributes:
        created: When the page was written.
        writer: The version of shapetune that wrote it.
        launches: Oldest first; empty for studies of versions that did not note them.
        places: Where runs ran, in words, each with its number of runs; most runs first.
        hosts: Machines that runs ran on; 0 where no run says.
        stages: The search and the confirmation.
        models: What was measured of the task's models when they were built, in words; empty where nobody kept it.
    """

    created: datetime
    writer: str
    launches: tuple[Launch, ...]
    places: tuple[tuple[str, int], ...]
    hosts: int
    stages: tuple[Stage, ...]
    models: tuple[tuple[str, float], ...] = ()

    @property
    def versions(self) -> dict[str, str]:
        """Package to the version of every launch; where launches differ, to all of them in their order."""
        names = dict.fromkeys(name for launch in self.launches for name in launch.versions)
        found = {
            name: list(dict.fromkeys(launch.versions.get(name, "none") for launch in self.launches)) for name in names
        }
        return {name: ", then ".join(versions) for name, versions in found.items()}

    @property
    def files(self) -> dict[str, str]:
        """Field to a hash of what the user's own file held at the last launch that looked."""
        return last_noted(launch.files for launch in self.launches)

    @property
    def changed_code(self) -> tuple[str, ...]:
        """Fields whose code changed from one launch to a later one."""
        looked = [launch.files for launch in self.launches if launch.files is not None]
        return tuple(sorted({field for then, now in pairwise(looked) for field in differing(then, now)}))


def read_provenance(
    file: Path, models: Path, search: Sequence[RunRecord], confirmation: Sequence[RunRecord]
) -> Provenance:
    """Return the provenance of a study.

    Args:
        file: What launches noted.
        models: What is known of the task's models.
        search: The search's finished runs; none of an earlier study.
        confirmation: The runs on fresh seeds.

    Raises:
        DamagedFileError: A line of the files is not what shapetune writes.
    """
    with understood(file):
        launches = tuple(_launch(line) for line in read_lines(file))
    runs = [*search, *confirmation]
    places = Counter(run.place for run in runs if run.place is not None)
    return Provenance(
        created=datetime.now(UTC),
        writer=installed_version("shapetune") or "of an unknown version",
        launches=launches,
        places=tuple(places.most_common()),
        hosts=len({run.host for run in runs if run.host is not None}),
        stages=tuple(_stage(name, of) for name, of in (("search", search), ("confirmation", confirmation)) if of),
        models=read_saved(models, _measured) or (),
    )


def _measured(facts: Mapping[str, Any]) -> tuple[tuple[str, float], ...]:
    return tuple((str(name).replace("_", " "), float(value)) for name, value in sorted(facts.items()))


def _launch(line: Mapping[str, Any]) -> Launch:
    versions = {"Python": str(line["python"])} | {str(name): str(found) for name, found in line["versions"].items()}
    commit = None if line["commit"] is None else str(line["commit"])
    return Launch(str(line["at"]), commit, versions, _machine(line), noted_in(line))


def _machine(line: Mapping[str, Any]) -> str:
    cores = int(line["processors"])
    gpus = Counter(str(name) for name in line["gpus"])
    parts = [f"{line['processor']}, {cores} {'processor' if cores == 1 else 'processors'}"]
    parts += [f"{float(line['memory_gib']):.0f} GiB"]
    parts += [name if count == 1 else f"{count} × {name}" for name, count in gpus.items()] or ["no GPU"]
    return ", ".join([*parts, str(line["platform"])])


def _stage(name: str, runs: Sequence[RunRecord]) -> Stage:
    wall, cpu = ([getattr(run, kind) for run in runs] for kind in ("wall_seconds", "cpu_seconds"))
    credit = [run.credit_tokens for run in runs]
    return Stage(
        name,
        len(runs),
        None if None in wall else sum(wall),
        None if None in cpu else sum(cpu),
        None if None in credit else sum(tokens or 0 for tokens in credit),
    )


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


def read_attempts(files: TrialFiles) -> tuple[Attempt, ...]:
    """Return the failed attempts of a trial, oldest first.

    Raises:
        DamagedFileError: A line is not what shapetune writes; one that was cut off is left out.
    """
    noted = files.attempts()
    last = {attempt.seeds: attempt for attempt in noted}
    found = [_attempt(attempt, files, attempt is last[attempt.seeds]) for attempt in noted]
    return tuple(sorted(found, key=lambda attempt: attempt.at))


def _attempt(attempt: AttemptRecord, files: TrialFiles, is_last: bool) -> Attempt:
    then = AGAIN
    ended = files.has_result or all(files.has_run(seed) for seed in attempt.seeds)
    if is_last and not ended:
        then = GIVEN_UP if files.has_failure else WAITS
    return Attempt(attempt.seeds, attempt.at, attempt.reason, attempt.detail, then)
