"""Every kind of task by its name in configs: a new one is a module, its settings, and a line here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from pipeline.tasks.asset_cache import cache_folder
from pipeline.tasks.prompt_file import PromptRow
from pipeline.tasks.settings import TaskSettings
from pipeline.trainers.base import Judge, Task

# Imported when they are needed: a config is read without loading what trains models.
MODULES = {
    "sentiment": "pipeline.tasks.sentiment.task",
    "summarization": "pipeline.tasks.summarization.task",
    "instruction": "pipeline.tasks.instruction.task",
    "prompts": "pipeline.tasks.custom.task",
}


class TaskKind(Protocol):
    """What the module of a task offers."""

    def location(self, settings: Any, cache: Path) -> Path | None:
        """Return where what is built once stands, whether it is built or not; ``None`` for nothing."""
        ...

    def unbuilt(self, settings: Any, cache: Path) -> str:
        """Return what ``prepare`` has to build, in words and with the time it takes; empty where all is there."""
        ...

    def prepare(self, settings: Any, cache: Path) -> Path | None:
        """Return the folder of what is built once, building it where the cache has none; ``None`` for nothing."""
        ...

    def load(self, settings: Any, folder: Path | None) -> Task:
        """Return the task from its settings and the folder that ``prepare`` returned."""
        ...

    def load_judge(self, settings: Any, folder: Path | None, asked: Sequence[PromptRow]) -> Judge:
        """Return the reward model alone, with the ids of prompts that need not be among the task's."""
        ...


def task_kind(settings: TaskSettings) -> TaskKind:
    """Return the module of the task that the settings describe."""
    return cast(TaskKind, import_module(MODULES[settings.name]))


@lru_cache(maxsize=1)
def load_task(settings: TaskSettings, assets: str) -> Task:
    """Return the loaded task; a process loads its models once.

    Args:
        settings: The config's.
        assets: The folder that ``prepare`` returned, as text; empty where there is none.

    Raises:
        ConfigError: Something of the user's own cannot be used.
    """
    return task_kind(settings).load(settings, Path(assets) if assets else None)


def built_task(settings: TaskSettings) -> tuple[Task, Path | None]:
    """Return a task with its models, and the folder of what was built for it; ``None`` for the user's own models.

    Raises:
        ConfigError: Something of the user's own cannot be used.
    """
    assets = task_kind(settings).prepare(settings, cache_folder())
    return load_task(settings, "" if assets is None else str(assets)), assets
