"""Paths in a task's settings, made absolute when they are read: a worker process has another working folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

FILES = ("prompts", "held_out_prompts")
SECTIONS = ("policy", "reward_model", "gold_model")


def absolute_paths(task: Any, folder: Path, every: bool) -> Any:
    """Return a task's plain values with the paths in them made absolute; what is no mapping comes back as it is.

    Files, model folders (a model may also be a name on the hub) and the files of reward functions are looked for in
    ``folder``.

    Args:
        task: The ``task`` section, not checked yet.
        folder: What paths are relative to.
        every: Whether a path that leads to nothing is made absolute, too, for the error that will follow.
    """
    if not isinstance(task, dict):
        return task
    found = dict(task)
    for name in FILES:
        if isinstance(task.get(name), str):
            found[name] = _absolute(task[name], folder, every)
    for name in SECTIONS:
        if isinstance(task.get(name), dict):
            found[name] = _section(task[name], folder, every)
    return found


def _section(values: dict[str, Any], folder: Path, every: bool) -> dict[str, Any]:
    found, model, function = dict(values), values.get("model"), values.get("function")
    if isinstance(model, str):
        # A name such as org/model may be on the hub; only what begins like a path cannot be.
        found["model"] = _absolute(model, folder, every and model.startswith((".", "~")))
    if isinstance(function, str):
        file, colon, name = function.rpartition(":")
        if file.endswith(".py"):
            found["function"] = f"{_absolute(file, folder, every)}{colon}{name}"
    return found


def _absolute(text: str, folder: Path, even_if_missing: bool) -> str:
    if not text:
        return text
    path = os.path.abspath(folder / Path(text).expanduser())
    return path if even_if_missing or os.path.exists(path) else text
