"""The exported shape: a study's winner with everything that gives it its meaning."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from pipeline.config.schema import StudyConfig
from pipeline.config.trainer_space import with_settings
from pipeline.export.formats import SHAPE, check_format
from pipeline.export.policy import policy_source
from pipeline.export.reward_model_code import reward_model_code
from pipeline.export.template import Exported
from pipeline.export.trainer_settings import unset_notes
from pipeline.runtime.environment import installed_versions
from pipeline.runtime.files import read_saved, write_text
from pipeline.study.folder import StudyFolder
from pipeline.tasks.registry import built_task
from shaping.errors import ConfigError
from shaping.shape_file import ShapeFile


@dataclass(frozen=True)
class Written:
    """What an export wrote.

    Attributes:
        paths: The files; the first is ``shape.json``.
        notes: What is left to whoever uses them.
    """

    paths: tuple[Path, ...]
    notes: tuple[str, ...]


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
    winner = folder.winner()
    if winner is None:
        raise ConfigError(f"{folder.root} has no winner yet", "let shapetune launch finish its search first")
    name, sha256 = reward_model or (None, None)
    ppo = with_settings(config, winner.trainer).ppo
    return ShapeFile(
        shape=winner.shape,
        # Rewards that were scaled up are rewards whose KL was priced lower; a trainer gets them unscaled.
        kl_coef=ppo.kl_coef / ppo.reward_scale,
        kl_estimator=ppo.kl_estimator,
        critic=ppo.critic,
        missing_eos_penalty=config.sampling.missing_eos_penalty,
        trainer=dict(winner.trainer),
        reward_model=name,
        reward_model_sha256=sha256,
        study=_origin(folder, config, winner.name),
        confirmed=_confirmed(folder),
        versions=installed_versions(),
    )


def export_shape(folder: StudyFolder, config: StudyConfig, reward_model: tuple[str, str] | None, target: Path) -> Path:
    """Write ``shape.json`` with the study's winner and return its path; see ``shape_of``."""
    path = target / "shape.json"
    shape_of(folder, config, reward_model).write(path)
    return path


def export_winner(folder: StudyFolder, target: Path, form: str = SHAPE) -> Written:
    """Write ``shape.json`` of a study's winner, bound to the reward model of its task, and what a trainer needs.

    Args:
        folder: The study.
        target: The folder to write into.
        form: ``shape`` for the shape alone, or a trainer: ``verl``, ``skyrl``, ``trl`` or ``slime``.

    Raises:
        ConfigError: The study has no winner yet, its reward model is not there any more, or there is no such form.
    """
    snippet = _snippet(form)
    config = folder.config()
    # A custom trainer has a task of its own.
    task, assets = (None, None) if config.trainer is not None else built_task(config.task)
    content = shape_of(folder, config, None if task is None else task.reward_name_and_identity)
    texts: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    if snippet is not None:
        code = reward_model_code(config, task, assets)
        policy = None if task is None else policy_source(config, task, assets)
        texts = snippet(Exported(content, code, config.sampling, policy))
        notes = (*code.notes, *unset_notes(form, content))
    paths = [target / "shape.json", *(target / name for name in texts)]
    content.write(paths[0])
    for path, text in zip(paths[1:], texts.values(), strict=True):
        write_text(path, text)
    return Written(tuple(paths), notes)


def _snippet(form: str) -> Callable[[Exported], dict[str, str]] | None:
    check_format(form)
    if form == SHAPE:
        return None
    module = import_module(f"pipeline.export.{form}")
    return cast(Callable[[Exported], dict[str, str]], module.snippet)


def _origin(folder: StudyFolder, config: StudyConfig, arm: str) -> dict[str, Any]:
    # The search wrote its ranking with its winner.
    ranked = read_saved(folder.ranking_file, lambda rows: {str(row["arm"]): int(row["index"]) for row in rows}) or {}
    return {
        "name": config.name,
        "task": config.task.name if config.trainer is None else f"trainer {_short(config.trainer.function)}",
        "arm": arm,
        "trial": ranked.get(arm),
        "trials": folder.count_trials(),
        "seeds": list(config.search.seeds),
    }


def _short(function: str) -> str:
    return function.rpartition("/")[2]


def _confirmed(folder: StudyFolder) -> dict[str, Any] | None:
    return read_saved(folder.verdict_file, _told)


def _told(kept: dict[str, Any]) -> dict[str, Any]:
    # A single seed bounds nothing, and JSON has no infinity.
    told = [
        {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}
        for row in kept["differences"]
    ]
    return {"differences": told, "text": kept["text"]}
