"""The exported shape: a study's winner with everything that gives it its meaning."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from pipeline.config.schema import StudyConfig
from pipeline.export.reward_model_code import reward_model_code
from pipeline.export.template import Exported, PolicySource
from pipeline.runtime.environment import installed_versions
from pipeline.runtime.files import read_saved, write_text
from pipeline.study.folder import StudyFolder
from pipeline.study.status import read_status
from pipeline.tasks.asset_cache import cache_folder
from pipeline.tasks.prompt_file import read_prompts
from pipeline.tasks.registry import load_task, task_kind
from pipeline.tasks.settings import PromptsSettings
from pipeline.trainers.base import Task
from pipeline.trials.arm import Arm
from shaping.errors import ConfigError
from shaping.shape_file import ShapeFile

SHAPE = "shape"
TRAINERS = ("verl", "skyrl", "trl", "slime")
# For Ax's own client, on any machine that has Ax.
AX, AX_FILE = "ax", "ax_client.json"
FORMATS = (SHAPE, *TRAINERS, AX)
# Why there is no way into a trainer, and what to do instead.
REFUSED = {
    "openrlhf": (
        "OpenRLHF takes one reward for each response: where a reward function returns token rewards, it joins all of "
        "them into one list and takes the first values as the rewards of the responses, without an error; the second "
        "response would be paid for the second token of the first",
        "export for a trainer that passes token rewards on to its advantages: --format verl or --format skyrl",
    )
}


@dataclass(frozen=True)
class Written:
    """What an export wrote.

    Attributes:
        paths: The files; the first is ``shape.json``, or the snapshot for Ax.
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
    winner = read_saved(folder.winner_file, Arm.from_dict)
    if winner is None:
        raise ConfigError(f"{folder.root} has no winner yet", "let shapetune launch finish its search first")
    name, sha256 = reward_model or (None, None)
    return ShapeFile(
        shape=winner.shape,
        # Rewards that were scaled up are rewards whose KL was priced lower; a trainer gets them unscaled.
        kl_coef=config.ppo.kl_coef / config.ppo.reward_scale,
        kl_estimator=config.ppo.kl_estimator,
        critic=winner.critic or config.ppo.critic,
        missing_eos_penalty=config.sampling.missing_eos_penalty,
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
        form: ``shape`` for the shape alone, a trainer (``verl``, ``skyrl``, ``trl`` or ``slime``), or ``ax`` for the
            search as a snapshot of Ax's client in place of the shape.

    Raises:
        ConfigError: The study has no winner yet, its reward model is not there any more, or there is no such form.
    """
    check_format(form)
    if form == AX:
        return _export_ax(folder, target)
    snippet = _snippet(form)
    config = folder.config()
    task, assets = winner_models(config)
    content = shape_of(folder, config, None if task is None else reward_model_of(task))
    texts: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    if snippet is not None:
        code = reward_model_code(config, task, assets)
        policy = None if task is None else _policy(config, task, assets)
        texts, notes = snippet(Exported(content, code, config.sampling, policy)), code.notes
    paths = [target / "shape.json", *(target / name for name in texts)]
    content.write(paths[0])
    for path, text in zip(paths[1:], texts.values(), strict=True):
        write_text(path, text)
    return Written(tuple(paths), notes)


def _export_ax(folder: StudyFolder, target: Path) -> Written:
    # Ax takes seconds to import.
    from pipeline.search.detached import snapshot
    from pipeline.study.replay import replayed

    path = target / AX_FILE
    text = snapshot(replayed(folder).outer.detached_client())
    target.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    note = f"ax-platform {version('ax-platform')} wrote it: Client.load_from_json_file({AX_FILE!r}) reads it; "
    return Written((path,), (f"{note}get_next_trials or compute_analyses fit its model, predict needs it fitted",))


def check_format(form: str) -> None:
    """Refuse a form that there is no export in.

    Raises:
        ConfigError: Nobody knows it, or the trainer cannot take token rewards; says why.
    """
    if form in REFUSED:
        raise ConfigError(*REFUSED[form])
    if form not in FORMATS:
        raise ConfigError(f"--format {form} is not known", f"choose one of {', '.join(FORMATS)}")


def _snippet(form: str) -> Callable[[Exported], dict[str, str]] | None:
    check_format(form)
    if form == SHAPE:
        return None
    module = import_module(f"pipeline.export.{form}")
    return cast(Callable[[Exported], dict[str, str]], module.snippet)


def _policy(config: StudyConfig, task: Task, assets: Path | None) -> PolicySource:
    """Return where the policy comes from, and the prompts that it was trained on."""
    end = str(task.tokenizer.eos_token)
    if isinstance(config.task, PromptsSettings):
        settings = config.task.policy
        rows = read_prompts(Path(config.task.prompts), "task.prompts")
        chosen = settings.model_dump(include={"gguf_file", "revision", "trust_remote_code"}, exclude_defaults=True)
        return PolicySource(settings.model, chosen, end, tuple({"prompt": row.messages or row.text} for row in rows))
    assert assets is not None
    prompts, kept = task.train_prompts, []
    for ids, mask in zip(prompts.ids, prompts.mask, strict=True):
        words = task.tokenizer.decode(ids[mask].tolist(), clean_up_tokenization_spaces=False)
        # A prompt that was cut inside a character is no text.
        if task.tokenizer(words)["input_ids"] == ids[mask].tolist():
            kept.append({"prompt": words})
    return PolicySource(str(assets / "policy"), {}, end, tuple(kept))


def winner_models(config: StudyConfig) -> tuple[Task | None, Path | None]:
    """Return the study's task with its models, and the folder of what was built for it.

    Both are ``None`` where a trainer of one's own has the task; of models of one's own there is no folder.
    """
    if config.trainer is not None:
        return None, None
    assets = task_kind(config.task).prepare(config.task, cache_folder())
    return load_task(config.task, "" if assets is None else str(assets)), assets


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
    return read_saved(folder.verdict_file, _told)


def _told(kept: dict[str, Any]) -> dict[str, Any]:
    # A single seed bounds nothing, and JSON has no infinity.
    told = [
        {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}
        for row in kept["differences"]
    ]
    return {"differences": told, "text": kept["text"]}
