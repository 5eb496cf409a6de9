"""What a study was made with, noted at every launch: the user's own files, versions, commit and machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.config.load import FILES, SECTIONS
from pipeline.config.schema import StudyConfig
from pipeline.runtime.environment import found_here
from pipeline.runtime.files import read_lines, understood
from pipeline.study.folder import StudyFolder, what_decides
from shaping.errors import ConfigError

FUNCTIONS = tuple(f"task.{section}.function" for section in SECTIONS)
TASK = (*(f"task.{name}" for name in FILES), *(f"task.{section}.model" for section in SECTIONS), *FUNCTIONS)
STUDY = ("space.name", "trainer.function")
# Code may be mended under way, as after a study that stopped at its first exception; data and models may not change.
CODE = (*FUNCTIONS, *STUDY)
# What a model is loaded from; notes beside it decide nothing.
LOADED = {".safetensors", ".bin", ".json", ".jinja", ".model", ".txt", ".py"}
NOTED, PROMPTS = "files", "prompts"


def user_files(config: StudyConfig) -> dict[str, str]:
    """Return config field to SHA-256 of the contents of the files and folders on this machine that decide a study.

    A file's is what ``sha256sum`` prints; a folder's is that of the list that ``sha256sum`` prints of its files.
    Packages and names on a hub are not among them, nor is what cannot be read: whoever loads it says so.
    """
    return _sums(config, STUDY if config.trainer is not None else (*TASK, *STUDY))


def task_files(config: StudyConfig) -> dict[str, str]:
    """Return the same of the task alone: what a run outside any study is decided by."""
    return _sums(config, TASK)


def _sums(config: StudyConfig, fields: Sequence[str]) -> dict[str, str]:
    values, found = what_decides(config), {}
    for field in fields:
        value = values.get(field)
        if not isinstance(value, str):
            continue
        path = Path(value.rpartition(":")[0] if field in CODE else value)
        if field == "task.policy.model" and values.get("task.policy.gguf_file") is not None:
            path = path / str(values["task.policy.gguf_file"])
        with suppress(OSError):
            if path.is_absolute() and path.exists():
                found[field] = _folder_sum(path) if path.is_dir() else _sum(path)
    return found


def check_user_files(folder: StudyFolder, now: Mapping[str, str]) -> list[str]:
    """Return the fields whose code has changed since the study's last launch.

    Args:
        folder: The study's.
        now: What ``user_files`` returns.

    Raises:
        ConfigError: Data or a model has changed: the study's results would belong to neither.
        DamagedFileError: What launches noted cannot be read.
    """
    changed = differing(noted(folder), now)
    data = [field for field in changed if field not in CODE]
    if data:
        raise ConfigError(
            f"{data[0]}: what it names has changed since {folder.root} was launched",
            "put the earlier one back, or change name in the config to start a new study",
        )
    return changed


def noted(folder: StudyFolder) -> dict[str, str]:
    """Return what the study's last launch found; empty for studies of versions that did not look.

    Raises:
        DamagedFileError: What launches noted cannot be read.
    """
    with understood(folder.provenance_file):
        return last_noted(map(noted_in, read_lines(folder.provenance_file)))


def noted_in(line: Mapping[str, Any]) -> dict[str, str] | None:
    """Return what a launch found, from its line; ``None`` where it did not look."""
    return {str(field): str(digest) for field, digest in line[NOTED].items()} if NOTED in line else None


def last_noted(launches: Iterable[dict[str, str] | None]) -> dict[str, str]:
    """Return what the last launch that looked has found; empty where none did."""
    looked = [found for found in launches if found is not None]
    return looked[-1] if looked else {}


def differing(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the fields that both know, with other contents."""
    return sorted(field for field in then.keys() & now.keys() if then[field] != now[field])


def _folder_sum(folder: Path) -> str:
    # A folder of checkpoints holds others below it.
    files = sorted(file for file in folder.iterdir() if file.suffix in LOADED and file.is_file())
    return hashlib.sha256("".join(f"{_sum(file)}  {file.name}\n" for file in files).encode()).hexdigest()


def _sum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_prompts(folder: StudyFolder, now: str) -> None:
    """Refuse to go on with other prompts than the study's last launch had, token for token.

    Files may be as they were and tokens not: a chat template is a program, and libraries change.

    Args:
        folder: The study's.
        now: ``Task.prompts_identity``; empty where the task's prompts are no one's own.

    Raises:
        ConfigError: They are others.
        DamagedFileError: What launches noted cannot be read.
    """
    with understood(folder.provenance_file):
        known = [str(line[PROMPTS]) for line in read_lines(folder.provenance_file) if PROMPTS in line]
    if known and now and known[-1] != now:
        raise ConfigError(
            f"task.prompts: the prompts' tokens have changed since {folder.root} was launched, though their file has "
            "not: by the chat template, or by another version of transformers",
            "set task.template_date or the earlier version, or change name in the config to start a new study",
        )


def note_launch(folder: StudyFolder, files: Mapping[str, str], prompts: str = "") -> None:
    """Add a line to the study's ``provenance.jsonl``.

    Args:
        folder: The study's.
        files: What ``pipeline.study.provenance.user_files`` returns.
        prompts: ``Task.prompts_identity``; empty where the task's prompts are no one's own.
    """
    when = datetime.now(UTC).isoformat(timespec="seconds")
    line = json.dumps({"at": when, **found_here(), NOTED: dict(files), **({PROMPTS: prompts} if prompts else {})})
    with folder.provenance_file.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
