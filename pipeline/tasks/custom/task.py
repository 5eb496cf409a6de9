"""One's own policy, reward model and prompts."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from pipeline.tasks.custom.prompt_forms import PolicySide
from pipeline.tasks.custom.reward_models import RewardSource
from pipeline.tasks.models.end_tokens import settle_ends
from pipeline.tasks.models.pretrained import check_folder, load_policy, load_tokenizer, outline_policy
from pipeline.tasks.prompt_file import PromptRow, read_prompts, split_prompts
from pipeline.tasks.settings import PolicySettings, PromptsSettings
from pipeline.trainers.base import Judge, Prompts, Task, quiet_transformers
from shaping.errors import ConfigError

Encoded = list[tuple[PromptRow, list[int]]]


def location(settings: PromptsSettings, cache: Path) -> Path | None:
    """Return ``None``: there is nothing to build."""
    return None


def unbuilt(settings: PromptsSettings, cache: Path) -> str:
    """Return what ``prepare`` would have to build: nothing, the models are the user's own."""
    return ""


def prepare(settings: PromptsSettings, cache: Path) -> Path | None:
    """Return ``None``: there is nothing to build."""
    return None


def load(settings: PromptsSettings, folder: Path | None) -> Task:
    """Return the task; what is small and most often wrong is looked at before a model is loaded.

    Raises:
        ConfigError: A file, a folder, a function or a model cannot be used; names field, value and remedy.
    """
    quiet_transformers()
    train, held_out = _rows(settings)
    check_folder("task.policy.model", settings.policy.model)
    reward = RewardSource.find(settings.reward_model, "task.reward_model")
    gold = None if settings.gold_model is None else RewardSource.find(settings.gold_model, "task.gold_model")
    tokenizer = load_tokenizer(settings.policy, "task.policy")
    shown, notes = _short_enough(train, "prompts", tokenizer, settings.max_prompt_tokens)
    judged, more = _short_enough(held_out, "held-out prompts", tokenizer, settings.max_prompt_tokens)
    policy, original = load_policy(settings.policy), copy.deepcopy(tokenizer)
    side = _policy_side(tokenizer, policy, shown + judged)
    changed = tokenizer.eos_token != original.eos_token
    reward_model, of_reward = reward.load(side)
    gold_model, of_gold = (None, ()) if gold is None else gold.load(side)
    return Task(
        name="prompts",
        policy=policy,
        tokenizer=tokenizer,
        reward_model=reward_model,
        gold_model=gold_model,
        train_prompts=Prompts.of_ids([ids for _, ids in shown]),
        held_out_prompts=Prompts.of_ids([ids for _, ids in judged]),
        notes=(*notes, *more, *of_reward, *of_gold),
        more_end_token_ids=side.more_ends,
        original_tokenizer=original if changed else None,
        tokenizer_folder=_tokenizer_folder(settings.policy),
    )


def load_judge(settings: PromptsSettings, folder: Path | None, asked: Sequence[PromptRow]) -> Judge:
    """Return the reward model alone, with the ids of ``asked``; no weights of the policy are loaded.

    Where all prompts of the task are chats, a plain text is what the user of a chat says.

    Raises:
        ConfigError: A file, a folder, a function or a model cannot be used; names field, value and remedy.
    """
    quiet_transformers()
    train, held_out = _rows(settings)
    check_folder("task.policy.model", settings.policy.model)
    reward = RewardSource.find(settings.reward_model, "task.reward_model")
    tokenizer = load_tokenizer(settings.policy, "task.policy")
    shown, _ = _short_enough(train, "prompts", tokenizer, settings.max_prompt_tokens)
    judged, _ = _short_enough(held_out, "held-out prompts", tokenizer, settings.max_prompt_tokens)
    chats = [row.messages is not None for row, _ in shown + judged]
    if not any(chats):
        for row in asked:
            row.check_plain()
    rows = [replace(row.as_chat() if all(chats) else row, day=settings.template_date) for row in asked]
    given = [(row, row.ids(tokenizer)) for row in rows]
    # Theirs are among the prompts that the reward model has a form of its own for.
    side = _policy_side(tokenizer, outline_policy(settings.policy), shown + judged + given)
    return Judge(tokenizer, reward.load(side)[0], tuple(ids for _, ids in given), side.more_ends)


def _policy_side(tokenizer: Any, policy: PreTrainedModel, prompts: Encoded) -> PolicySide:
    """Return what reward models must know, after the tokenizer was told which token ends a response."""
    _check_vocabulary(policy, prompts)
    # Before the reward models: they see where a response ends.
    more_ends = settle_ends(tokenizer, policy, chat=any(row.messages is not None for row, _ in prompts))
    return PolicySide(tokenizer, policy.get_output_embeddings().weight.shape[0], prompts, more_ends)


def _tokenizer_folder(settings: PolicySettings) -> Path | None:
    # A GGUF file holds its tokenizer inside.
    folder = Path(settings.model)
    return folder if settings.gguf_file is None and folder.is_dir() else None


def _rows(settings: PromptsSettings) -> tuple[list[PromptRow], list[PromptRow]]:
    day = settings.template_date
    rows = read_prompts(settings.prompts, "task.prompts", day, settings.max_prompts)
    if settings.held_out_prompts is None:
        return split_prompts(rows, settings.share)
    return rows, read_prompts(settings.held_out_prompts, "task.held_out_prompts", day)


def _short_enough(
    rows: Sequence[PromptRow], what: str, tokenizer: Any, most_tokens: int
) -> tuple[Encoded, tuple[str, ...]]:
    """Return prompts with their ids, those beyond the limit left out, and a note that counts them.

    A prompt is never cut: what is left of a chat or a question would be another prompt.

    Raises:
        ConfigError: All are too long.
    """
    encoded = [(row, row.ids(tokenizer)) for row in rows]
    kept = [(row, ids) for row, ids in encoded if len(ids) <= most_tokens]
    if not kept:
        shortest = min(len(ids) for _, ids in encoded)
        raise ConfigError(
            f"task.max_prompt_tokens = {most_tokens}, but the shortest of the {what} has {shortest} tokens",
            "raise it, or shorten the prompts",
        )
    if len(kept) == len(encoded):
        return kept, ()
    left_out = len(encoded) - len(kept)
    note = f"{left_out} of {len(encoded)} {what} left out: longer than task.max_prompt_tokens = {most_tokens}"
    return kept, (note,)


def _check_vocabulary(policy: PreTrainedModel, prompts: Encoded) -> None:
    known, largest = policy.get_input_embeddings().num_embeddings, max(max(ids) for _, ids in prompts)
    if largest >= known:
        raise ConfigError(
            f"task.policy.model: the tokenizer gives token {largest}, but the model knows {known} tokens",
            "give model and tokenizer that belong together",
        )
