"""What a study was made with, noted at every launch: the user's own files, versions, commit and machine."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from pipeline.config.load import FILES, SECTIONS
from pipeline.config.schema import StudyConfig
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
NOTED = "files"


def own_files(config: StudyConfig) -> dict[str, str]:
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


def check_own_files(folder: StudyFolder, now: Mapping[str, str]) -> list[str]:
    """Return the fields whose code has changed since the study's last launch.

    Args:
        folder: The study's.
        now: What ``own_files`` returns.

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


PACKAGES = ("shapetune", "torch", "transformers", "trl", "ax-platform", "botorch", "gpytorch", "ray", "plotly")
GIT_SECONDS = 10
HERE = Path(__file__).resolve()


def note_launch(folder: StudyFolder, files: Mapping[str, str]) -> None:
    """Add a line to the study's ``provenance.jsonl``.

    Args:
        folder: The study's.
        files: What ``pipeline.study.provenance.own_files`` returns.
    """
    when = datetime.now(UTC).isoformat(timespec="seconds")
    line = json.dumps({"at": when, **found_here(), NOTED: dict(files)})
    with folder.provenance_file.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def found_here() -> dict[str, Any]:
    """Return the versions of what matters, the code's commit and this machine, as plain values."""
    return {
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := installed_version(name)) is not None},
        "commit": code_commit(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "processors": os.cpu_count() or 1,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": _gpus(),
    }


def installed_version(name: str) -> str | None:
    """Return a package's version, or ``None`` where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def code_commit() -> str | None:
    """Return the commit of the checkout that this code runs from, with ``-dirty`` where its files were changed.

    ``None`` where it runs from no checkout: an installed copy may lie inside a repository that is another project's.
    """
    if _git("ls-files", "--error-unmatch", HERE.name) is None:
        return None
    # No tags: they would stand in for the commit.
    return _git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


def _git(*arguments: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    # A hook that launches a study has its own repository in the environment.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = [git, "-C", str(HERE.parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=plain, timeout=GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _processor() -> str:
    names = _values(Path("/proc/cpuinfo"), "model name")
    return names[0] if names else platform.processor() or platform.machine()


def _gpus() -> list[str]:
    """Return the names of NVIDIA's GPUs; asking torch would take memory of each."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return [name for file in files for name in _values(file, "Model")[:1]]


def _values(file: Path, key: str) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    pairs = (line.partition(":") for line in lines)
    return [value.strip() for name, _, value in pairs if name.strip() == key]
