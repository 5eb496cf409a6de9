"""A study's folder: what stands where, and that it belongs to one config and one process."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pipeline.config.identity import SERVED
from pipeline.config.load import FORMAT, FORMAT_KEY, load_config
from pipeline.config.schema import StudyConfig
from pipeline.runtime.dotted import dotted
from pipeline.runtime.files import read_saved, write_text
from pipeline.search.bounds import BoundReached
from pipeline.study.lock import lock_holder, study_lock
from pipeline.trials.arm import Arm
from shaping.errors import ConfigError

# A study of the built-in size writes some 5 MB; Ray and SQLite need room to work.
FREE_BYTES_NEEDED = 200 * 2**20
RESTORE = "put a copy back: the config of the launch will do, with study_format: 1 as its last line"
# What may grow after a study was launched.
RAISABLE = "search.trials"
# What is left of an arm's name in the name of its folder.
UNSAFE, LONGEST_NAME = re.compile(r"[^A-Za-z0-9_+-]"), 100


class StudyFolder:
    """Paths and checks of one study's folder."""

    def __init__(self, root: Path) -> None:
        # Workers have working folders of their own, so every path that travels is absolute.
        self.root = root = root.absolute()
        self.config_file = root / "study.yaml"
        self.trials = root / "trials"
        self.confirm = root / "confirm"
        self.verdict_file = root / "verdict.json"
        self.winner_file = root / "winner.json"
        self.ranking_file = root / "ranking.json"
        self.sensitivity_file = root / "sensitivity.json"
        self.bounds_file = root / "bounds.json"
        self.warm_start_file = root / "warm_start.json"
        self.tokens_file = root / "tokens.json"
        self.provenance_file = root / "provenance.jsonl"
        self.models_file = root / "models.json"
        self.progress_file = root / "progress.json"
        self.report_file = root / "report.html"
        self.export = root / "export"
        self._lock_file = root / ".lock"

    @classmethod
    def existing(cls, root: Path) -> StudyFolder:
        """Return the folder of a study that was launched.

        Raises:
            ConfigError: There is no study there.
        """
        folder = cls(root)
        if not folder.config_file.is_file():
            raise ConfigError(f"no study in {root}", "give the folder that shapetune launch printed")
        return folder

    def config(self) -> StudyConfig:
        """Return the study's resolved config.

        Raises:
            ConfigError: Its file is damaged, or a newer version's.
        """
        try:
            config = load_config(self.config_file)
        except ConfigError as error:
            raise ConfigError(error.message, RESTORE if FORMAT_KEY not in error.message else error.hint) from error
        if FORMAT_KEY not in self.config_file.read_text(encoding="utf-8"):
            raise ConfigError(f"{self.config_file} is damaged: its end is missing", RESTORE)
        return config

    def check(self, config: StudyConfig) -> None:
        """Refuse a folder that cannot be used, before anything is written.

        Raises:
            ConfigError: It holds another study, cannot be written, or its disk is full.
        """
        parent = next(path for path in (self.root, *self.root.parents) if path.exists())
        if not parent.is_dir():
            raise ConfigError(f"study folder {self.root}: {parent} is a file", "choose another folder with --studies")
        if not os.access(parent, os.W_OK):
            raise ConfigError(f"study folder {self.root} cannot be written", "choose another folder with --studies")
        free = shutil.disk_usage(parent).free
        if free < FREE_BYTES_NEEDED:
            raise ConfigError(
                f"the disk of {self.root} has {free // 2**20} MiB free, but a study needs {FREE_BYTES_NEEDED // 2**20}",
                "free some space, or choose another folder with --studies",
            )
        self._check_same(config)

    def _check_same(self, config: StudyConfig) -> None:
        if not self.config_file.exists():
            if self.root.is_dir() and any(self.root.iterdir()):
                raise ConfigError(f"{self.root} is not empty and holds no study", "choose another folder or name")
            return
        mine, theirs = what_decides(config), what_decides(self.config())
        if mine.pop(RAISABLE) < theirs.pop(RAISABLE):
            raise ConfigError(
                f"{self.root} was launched with {RAISABLE} = {self.config().search.trials}, which can only be raised",
                f"set {RAISABLE} to at least that, or change name in the config to start a new study",
            )
        changed = unlike(mine, theirs)
        if changed:
            field = changed[0]
            raise ConfigError(
                f"{self.root} holds a study of another config: "
                f"{field} is {theirs.get(field)!r} there, {mine.get(field)!r} here",
                "change name in the config to start a new study, or undo the change to resume the old one",
            )

    def create(self, config: StudyConfig) -> None:
        """Make the folder and keep the resolved config in it, with the trials that it was raised to."""
        self.root.mkdir(parents=True, exist_ok=True)
        if not self.config_file.exists() or self.config().search.trials < config.search.trials:
            # Last, so that a file that was cut off has it not.
            write_text(self.config_file, f"{config.to_yaml()}{FORMAT_KEY}: {FORMAT}\n")

    def put_aside_winner(self, trials: int) -> None:
        """Keep what was found about the winner of a shorter search under ``earlier/TRIALS``."""
        aside = self.root / "earlier" / str(trials)
        aside.mkdir(parents=True, exist_ok=True)
        found = [self.winner_file, self.ranking_file, self.sensitivity_file, self.bounds_file]
        about = [*found, self.verdict_file, self.tokens_file]
        # The baselines' runs stay: they are the same whoever wins.
        for path in (*about, self.export, *self.confirm.glob("winner-*"), *self.confirm.glob("place-*")):
            if path.exists():
                shutil.move(path, aside / path.name)

    def locked(self) -> AbstractContextManager[None]:
        """Return what holds the study against a second launch; see ``study_lock``."""
        return study_lock(self._lock_file, self.root)

    def runner(self) -> str | None:
        """Return who runs the study, in words; ``None`` where nobody does."""
        return lock_holder(self._lock_file)

    def winner(self) -> Arm | None:
        """Return the search's winner; ``None`` before one was chosen.

        Raises:
            DamagedFileError: Its file is not what was written.
        """
        return read_saved(self.winner_file, Arm.from_dict)

    def bounds(self) -> list[BoundReached]:
        """Return the bounds of the space that the search ran into; empty where a version before they were kept chose.

        Raises:
            DamagedFileError: Its file is not what was written.
        """
        return read_saved(self.bounds_file, lambda rows: [BoundReached.from_dict(row) for row in rows]) or []

    def count_trials(self) -> int:
        """Return the number of the search's trials so far, however they stand."""
        return sum(path.name.isdigit() for path in self.trials.glob("*"))

    def trial_folder(self, index: int) -> Path:
        """Return the folder of a search trial."""
        return self.trials / str(index)

    def confirm_folder(self, arm: str, seed: int) -> Path:
        """Return the folder of one confirmation run."""
        return self.confirm / f"{_file_name(arm)}-{seed}"


def _file_name(arm: str) -> str:
    """Return an arm's name as one part of a path; names from a database or a space of one's own may hold anything."""
    plain = arm.replace(", ", "-").replace(" ", "-")
    kept = UNSAFE.sub("_", plain)[:LONGEST_NAME]
    # Names that differ in what was replaced stay different.
    return kept if kept == plain else f"{kept}-{hashlib.sha256(arm.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def unlike(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the keys whose values differ, or that only one of them has."""
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


def what_decides(config: StudyConfig) -> dict[str, Any]:
    """Return the values that decide a study's results, flat; where and how wide it runs may change."""
    elsewhere: dict[str, Any] = {"executor": True, "storage": True, "tracking": True, "sampling": {SERVED}}
    return dotted(config.model_dump(mode="json", exclude=elsewhere))
