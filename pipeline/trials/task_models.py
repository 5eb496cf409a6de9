"""The models of a config's task: built where the cache has none, loaded, and held against the rest of the config."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from transformers import PreTrainedModel

from pipeline.config.schema import StudyConfig
from pipeline.tasks.asset_cache import cache_folder
from pipeline.tasks.build_display import building_shown
from pipeline.tasks.prompt_file import PromptRow
from pipeline.tasks.registry import load_task, task_kind
from pipeline.tasks.settings import PromptsSettings
from pipeline.trainers.base import Judge, Task
from pipeline.trainers.custom import find_trainer
from pipeline.trainers.ppo.agreement import check_task
from pipeline.trials.model_check import ask_apart
from shaping.credit import METHODS, check_served
from shaping.errors import ConfigError
from shaping.reward_models import CausalRewardModel
from shaping.reward_models.positions import Positions


def assets_location(config: StudyConfig) -> Path | None:
    """Return where what the task builds once stands, whether it is built or not; ``None`` for nothing."""
    return task_kind(config.task).location(config.task, cache_folder())


def build_assets(config: StudyConfig, console: Console) -> Path | None:
    """Return the folder of what the task builds once, saying so when it has to be built; ``None`` for nothing."""
    kind, cache = task_kind(config.task), cache_folder()
    unbuilt = kind.unbuilt(config.task, cache)
    if not unbuilt:
        return kind.prepare(config.task, cache)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            f"the models of task {config.task.name} are not built yet, and one process alone can build them",
            "run the same command once without torchrun, with --set ppo.steps=1",
        )
    started = time.perf_counter()
    with building_shown(console, unbuilt):
        folder = kind.prepare(config.task, cache)
    console.print(f"models built in {time.perf_counter() - started:.0f} s, kept in {escape(str(folder))}")
    return folder


def open_task(config: StudyConfig, assets: Path | None, console: Console) -> Task:
    """Return the loaded task, after its notes were printed.

    Raises:
        ConfigError: Something of it cannot be used, does not fit the config, or does not agree with itself.
        TrialFailed: A score is not finite (``nan``).
    """
    with console.status("loading models"):
        task = load_task(config.task, "" if assets is None else str(assets))
    for note in (*task.notes, *held_out_notes(config, task)):
        console.print(escape(note))
    searched = config.space.trainer.get("ppo.critic", ())
    for key, critics in (("ppo.critic", (config.ppo.critic,)), ("space.trainer.ppo.critic", searched)):
        if "reward_model" in critics and task.critic_source is None:
            raise ConfigError(
                f"{key} = reward_model, but the reward model does not score prefixes in the policy's tokens, or is "
                "quantized",
                f"set {key} to value_head or network",
            )
    _check_context(config, task)
    with console.status("trying the models"):
        try:
            check_task(task, task.policy, config.sampling)
        except ConfigError as error:
            raise ConfigError(f"task: {error.message}", error.hint) from error
    return task


def held_out_notes(config: StudyConfig, task: Task) -> tuple[str, ...]:
    """Return a note that counts the user's held-out prompts that are trained on, token for token; none without any."""
    if not isinstance(config.task, PromptsSettings):
        return ()
    trained_on = set(map(tuple, task.train_prompts.to_ids()))
    judged = task.held_out_prompts.to_ids()
    both = sum(tuple(ids) in trained_on for ids in judged)
    if both == 0:
        return ()
    return (
        f"{both} of {len(judged)} held-out prompts are also trained on (the same tokens stand on both sides): "
        "J on them says little of new prompts",
    )


def open_judge(config: StudyConfig, asked: Sequence[PromptRow], console: Console) -> Judge:
    """Return the reward model of a config's task, with the ids of ``asked``; nothing else of the task is loaded.

    Raises:
        ConfigError: Something of it, or a prompt, cannot be used.
    """
    assets = build_assets(config, console)
    with console.status("loading the reward model"):
        return task_kind(config.task).load_judge(config.task, assets, asked)


@dataclass(frozen=True)
class ReadyModels:
    """What is known of a config's models once they were built, loaded and looked at.

    Attributes:
        assets: The folder of what the task built once; ``None`` where it built nothing.
        has_reward_critic: Whether a critic can start as the task's reward model.
        quality: Measured quality of the models, by name.
        prompts: ``Task.prompts_identity`` of a user's own prompts; empty for other tasks.
    """

    assets: Path | None = None
    has_reward_critic: bool = False
    quality: Mapping[str, float] = field(default_factory=dict)
    prompts: str = ""


def ready_models(config: StudyConfig, console: Console) -> ReadyModels:
    """Build a config's models and look at them, or find its custom trainer, and return what is known of them.

    Where trials run in processes of their own, these are looked at in such a one, too, which ends with what they took.
    Small ones are not worth the seconds that it takes to start.

    Raises:
        ConfigError: Something of them cannot be used, or does not fit the config.
    """
    if config.trainer is not None:
        find_trainer(config.trainer.function)
        return ReadyModels()
    assets = build_assets(config, console)
    if config.executor.name == "local" or config.task.is_small:
        task = open_task(config, assets, console)
        found = _known(config, task)
        if config.executor.name != "local":
            # The workers load models of their own; this process needs the memory no more than the time.
            load_task.cache_clear()
    else:
        with console.status("loading and trying the models"):
            found = ask_apart(config, assets)
        for note in found["notes"]:
            console.print(escape(note))
    return ReadyModels(assets, found["has_reward_critic"], found["quality"], found["prompts"])


def known_of_models(config: StudyConfig, assets: Path | None) -> dict[str, Any]:
    """Return what is known of models once they were loaded and looked at: what ``ReadyModels`` holds, and notes.

    Raises:
        ConfigError: Something of them cannot be used, or does not fit the config.
    """
    return _known(config, open_task(config, assets, Console(quiet=True)))


def _known(config: StudyConfig, task: Task) -> dict[str, Any]:
    check_space_methods(config, task)
    return {
        "has_reward_critic": task.critic_source is not None,
        "quality": dict(task.quality),
        "prompts": task.prompts_identity if isinstance(config.task, PromptsSettings) else "",
        "notes": [*task.notes, *held_out_notes(config, task)],
    }


def check_space_methods(config: StudyConfig, task: Task) -> None:
    """Refuse to search over methods that the reward model cannot serve.

    Raises:
        ConfigError: It gives no attention or no gradient, has fewer layers, or cannot take tokens away as asked.
    """
    for name in config.space.methods:
        try:
            check_served([METHODS[name]], task.reward_model, config.base_shape())
        except ConfigError as error:
            raise ConfigError(f"space.methods, {name}: {error.message}", error.hint) from error


def _check_context(config: StudyConfig, task: Task) -> None:
    prompt = max(int(prompts.mask.sum(dim=1).max()) for prompts in (task.train_prompts, task.held_out_prompts))
    response, limits = config.sampling.response_tokens, [("policy", _policy_context(task.policy), 0)]
    for name, judge in (("reward model", task.reward_model), ("gold model", task.gold_model)):
        if isinstance(judge, CausalRewardModel):
            limits.append((name, judge.context, judge.added_tokens))
    for name, limit, added in limits:
        if limit is not None and prompt + response + added > limit:
            raise ConfigError(
                f"sampling.response_tokens = {response}: after the longest prompt, of {prompt} tokens, that is more "
                f"than the {limit} tokens that the {name} can take",
                "lower it, or task.max_prompt_tokens",
            )


@torch.inference_mode()
def _policy_context(policy: PreTrainedModel) -> int | None:
    return Positions.of(policy, lambda ids: policy(input_ids=ids), None).limit
