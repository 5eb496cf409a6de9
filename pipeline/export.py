"""The exported shape: a file that carries everything that gives a shape its meaning."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.assets import cache_folder
from pipeline.config import StudyConfig
from pipeline.kept_files import read_kept
from pipeline.study_folder import StudyFolder
from pipeline.tasks.registry import load_task, task_kind
from pipeline.trial import write_json
from shaping.errors import ConfigError
from shaping.shape import Shape

SCHEMA = "shapetune/shape/1"


def export_shape(folder: StudyFolder, config: StudyConfig, reward_model: str | None, target: Path) -> Path:
    """Write ``shape.json`` with the study's winner and return its path.

    Args:
        folder: The study.
        config: Its config.
        reward_model: Identity of the reward model that the shape was tuned for; ``None`` where it is not known.
        target: The folder to write into.

    Raises:
        ConfigError: The study has no winner yet.
    """
    winner = read_kept(folder.winner_file, lambda kept: {"name": kept["name"], "shape": kept["shape"]})
    if winner is None:
        raise ConfigError(f"{folder.root} has no winner yet", "let shapetune launch finish its search first")
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "shape": winner["shape"],
        "ppo": {"kl_coef": config.ppo.kl_coef, "kl_estimator": config.ppo.kl_estimator, "critic": config.ppo.critic},
        "reward_model_sha256": reward_model,
        "study": {"name": config.name, "arm": winner["name"], "task": _task_name(config)},
        "confirmed": _confirmed(folder),
        "versions": {name: version(name) for name in ("shapetune", "torch", "transformers", "ax-platform", "botorch")},
    }
    content["checksum_sha256"] = checksum(content)
    target.mkdir(parents=True, exist_ok=True)
    path = target / "shape.json"
    write_json(path, content)
    return path


def export_winner(folder: StudyFolder, target: Path) -> Path:
    """Write ``shape.json`` of a study's winner, bound to the reward model of its task, and return its path.

    Raises:
        ConfigError: The study has no winner yet, or its reward model is not there any more.
    """
    config = folder.config()
    if config.trainer is not None:
        # Nobody here knows which reward model a trainer of one's own asks.
        return export_shape(folder, config, None, target)
    assets = task_kind(config.task).prepare(config.task, cache_folder())
    task = load_task(config.task, "" if assets is None else str(assets))
    return export_shape(folder, config, task.reward_identity, target)


def load_shape(path: Path, reward_model: str | None = None) -> Shape:
    """Return the shape of an exported file.

    Args:
        path: A ``shape.json``.
        reward_model: Identity of the reward model it will be used with; ``None`` does not check.

    Raises:
        ConfigError: The file cannot be read, has another schema, was altered, or belongs to another reward model.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"shape file {path} cannot be read: {error}", "give a shape.json of this version") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise ConfigError(f"shape file {path} has schema {found!r}, not {SCHEMA!r}", "export the shape again")
    if not isinstance(content.get("shape"), dict) or "reward_model_sha256" not in content:
        raise ConfigError(f"shape file {path} holds no shape", "export the shape again")
    if content.get("checksum_sha256") != checksum(content):
        raise ConfigError(f"shape file {path} was altered after it was exported", "export the shape again")
    if reward_model is not None and content["reward_model_sha256"] not in (None, reward_model):
        raise ConfigError(f"shape file {path} was tuned for another reward model", "use the reward model of its study")
    return Shape.from_dict(content["shape"])


def checksum(content: dict[str, Any]) -> str:
    """Return the hash of everything in the file but the hash itself."""
    rest = {key: value for key, value in content.items() if key != "checksum_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _task_name(config: StudyConfig) -> str:
    return config.task.name if config.trainer is None else f"trainer {config.trainer.function.rpartition('/')[2]}"


def _confirmed(folder: StudyFolder) -> dict[str, Any] | None:
    return read_kept(folder.verdict_file, lambda kept: {name: kept[name] for name in ("differences", "text")})
