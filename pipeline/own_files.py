"""The user's own files that a config names: results belong to what was in them, not to their paths."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.config import StudyConfig
from pipeline.kept_files import read_lines, understood
from pipeline.study_folder import StudyFolder, what_decides
from shaping.errors import ConfigError

# Code may be mended under way, as after a study that stopped at its first exception; data and models may not change.
CODE = ("task.reward_model.function", "task.gold_model.function", "space.name", "trainer.function")
MODELS = ("task.policy.model", "task.reward_model.model", "task.gold_model.model")
FIELDS = ("task.prompts", "task.held_out_prompts", *MODELS, *CODE)
# What a model is loaded from; notes beside it decide nothing.
LOADED = {".safetensors", ".bin", ".json", ".jinja", ".model", ".txt", ".py"}
NOTED = "files"


def own_files(config: StudyConfig) -> dict[str, str]:
    """Return config field to SHA-256 of the contents of the files and folders on this machine that decide results.

    Packages and names on a hub are not among them, nor is what cannot be read: whoever loads it says so.
    """
    values = what_decides(config)
    found = {}
    for field in FIELDS:
        value = values.get(field)
        if not isinstance(value, str) or (config.trainer is not None and field.startswith("task.")):
            continue
        path = Path(value.rpartition(":")[0] if field in CODE else value)
        gguf = values.get("task.policy.gguf_file") if field == "task.policy.model" else None
        try:
            files = list(_loaded(path, gguf))
            if files:
                found[field] = _digest(files)
        except OSError:
            continue
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
        lines = [line[NOTED] for line in read_lines(folder.provenance_file) if NOTED in line]
        return {str(field): str(digest) for field, digest in lines[-1].items()} if lines else {}


def differing(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the fields that both know, with other contents."""
    return sorted(field for field in then.keys() & now.keys() if then[field] != now[field])


def _loaded(path: Path, gguf: object) -> Iterator[Path]:
    if not path.is_absolute():
        return
    if isinstance(gguf, str):
        path = path / gguf
    if path.is_file():
        yield path
    elif path.is_dir():
        # A folder of checkpoints holds others below it.
        yield from sorted(file for file in path.iterdir() if file.suffix in LOADED and file.is_file())


def _digest(files: list[Path]) -> str:
    parts = []
    for file in files:
        with file.open("rb") as stream:
            parts.append((file.name, hashlib.file_digest(stream, "sha256").hexdigest()))
    return hashlib.sha256(repr(parts).encode()).hexdigest()
