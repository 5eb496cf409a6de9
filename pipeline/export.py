"""The exported shape: a study's winner with everything that gives it its meaning."""

from __future__ import annotations

import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.arm import Arm
from pipeline.assets import cache_folder
from pipeline.config import StudyConfig
from pipeline.kept_files import read_kept
from pipeline.status import read_status
from pipeline.study_folder import StudyFolder
from pipeline.tasks.base import Task
from pipeline.tasks.registry import load_task, task_kind
from shaping.errors import ConfigError
from shaping.shape_file import ShapeFile

PACKAGES = ("shapetune", "torch", "transformers", "ax-platform", "botorch")


def shape_of(folder: StudyFolder, config: StudyConfig, reward_model: tuple[str, str] | None) -> ShapeFile:
    """Return a study's winner as a shape file.

    Args:
        folder: The study.
        config: Its config.
        reward_model: Name and identity of the reward model that the shape was tuned for; ``None`` where it is not
            known.

    Raises:
        ConfigError: The study has no winner yet.
    """
    winner = read_kept(folder.winner_file, Arm.from_dict)
    if winner is None:
        raise ConfigError(f"{folder.root} has no winner yet", "let shapetune launch finish its search first")
    name, sha256 = reward_model or (None, None)
    return ShapeFile(
        shape=winner.shape,
        kl_coef=config.ppo.kl_coef,
        kl_estimator=config.ppo.kl_estimator,
        critic=winner.critic or config.ppo.critic,
        missing_eos_penalty=config.sampling.missing_eos_penalty,
        reward_model=name,
        reward_model_sha256=sha256,
        study=_origin(folder, config, winner.name),
        confirmed=_confirmed(folder),
        versions={package: version(package) for package in PACKAGES},
    )


def export_shape(folder: StudyFolder, config: StudyConfig, reward_model: tuple[str, str] | None, target: Path) -> Path:
    """Write ``shape.json`` with the study's winner and return its path; see ``shape_of``."""
    path = target / "shape.json"
    shape_of(folder, config, reward_model).write(path)
    return path


def export_winner(folder: StudyFolder, target: Path) -> Path:
    """Write ``shape.json`` of a study's winner, bound to the reward model of its task, and return its path.

    Raises:
        ConfigError: The study has no winner yet, or its reward model is not there any more.
    """
    config = folder.config()
    task = winner_task(config)
    return export_shape(folder, config, None if task is None else reward_model_of(task), target)


def winner_task(config: StudyConfig) -> Task | None:
    """Return the study's task with its models; ``None`` where a trainer of one's own has it."""
    if config.trainer is not None:
        return None
    assets = task_kind(config.task).prepare(config.task, cache_folder())
    return load_task(config.task, "" if assets is None else str(assets))


def reward_model_of(task: Task) -> tuple[str, str]:
    """Return name and identity of a task's reward model; a file's name without its folder."""
    return Path(task.reward_model.name).name, task.reward_identity


def _origin(folder: StudyFolder, config: StudyConfig, arm: str) -> dict[str, Any]:
    rows = read_status(folder)
    trial = next((row["index"] for row in rows if row["arm"] == arm), None)
    return {
        "name": config.name,
        "task": config.task.name if config.trainer is None else f"trainer {_short(config.trainer.function)}",
        "arm": arm,
        "trial": trial,
        "trials": len(rows),
        "seeds": list(config.search.seeds),
    }


def _short(function: str) -> str:
    return function.rpartition("/")[2]


def _confirmed(folder: StudyFolder) -> dict[str, Any] | None:
    return read_kept(folder.verdict_file, _told)


def _told(kept: dict[str, Any]) -> dict[str, Any]:
    # A single seed bounds nothing, and JSON has no infinity.
    told = [
        {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}
        for row in kept["differences"]
    ]
    return {"differences": told, "text": kept["text"]}
