"""Prompts from a file: plain texts, or messages that go through a chat template."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.tasks.chat_roles import check_of
from pipeline.tasks.prompt_rows import FORM, prompt_rows
from pipeline.tasks.template_day import on_day
from shaping.errors import ConfigError
from shaping.rollouts import opened_ids

ANSWERED = 'write one JSON object a line: {"prompt": "...", "response": "..."}; messages may stand in place of prompt'


@dataclass(frozen=True)
class PromptRow:
    """One prompt of a file.

    Attributes:
        place: File and line, for messages.
        messages: The turns of a chat; ``None`` where the prompt is a plain text.
        text: The prompt in plain words; of a chat the contents of its messages, a line each.
        day: What a chat template writes as today's date; ``None`` leaves it the clock.
    """

    place: str
    messages: list[dict[str, Any]] | None
    text: str
    day: date | None = None

    def ids(self, tokenizer: Any, whole: bool = True) -> list[int]:
        """Return the prompt's token ids, ready for a response.

        A chat goes through the tokenizer's template, up to the opening of the assistant's turn; a text comes after
        what the tokenizer puts before a text, unless it begins with that already, as a templated chat may.

        Args:
            tokenizer: Of the policy, or of a reward model.
            whole: As of ``templated``.

        Raises:
            ConfigError: The tokenizer has no chat template, the template refuses the messages, or no token results.
        """
        if self.messages is None:
            ids = opened_ids(tokenizer, self.text)
        else:
            ids = list(self.templated(tokenizer, whole, tokenize=True, return_dict=False))
        if not ids:
            raise ConfigError(f"{self.place}: the prompt has no token", "give it a text")
        return ids

    def as_chat(self) -> PromptRow:
        """Return a plain text as what the user of a chat says; a chat is returned as it is."""
        if self.messages is not None:
            return self
        return replace(self, messages=[{"role": "user", "content": self.text}])

    def check_plain(self) -> None:
        """Refuse a chat, where the task's prompts are plain texts.

        Raises:
            ConfigError: The prompt is a chat.
        """
        if self.messages is not None:
            raise ConfigError(f"{self.place} holds messages, but the task's prompts are plain texts", "give a prompt")

    def templated(self, tokenizer: Any, whole: bool = True, **options: Any) -> Any:
        """Return the messages in the tokenizer's chat template, as a text or as ``options`` say.

        Args:
            tokenizer: Of the policy, or of a reward model.
            whole: Whether no message may be dropped; a reward model's template may, with a note.
            **options: Of the library's ``apply_chat_template``.

        Raises:
            ConfigError: There is no template, or it refuses the messages or drops one.
        """
        if not tokenizer.chat_template:
            raise ConfigError(
                f"{self.place} holds messages, but the tokenizer has no chat template",
                'use {"prompt": ...} lines, or save a chat_template.jinja beside the tokenizer',
            )
        if self.day is not None:
            options["chat_template"] = on_day(tokenizer.get_chat_template(), self.day)
        assert self.messages is not None
        try:
            made = tokenizer.apply_chat_template(self.messages, add_generation_prompt=True, **options)
        except Exception as error:
            # A template is a program, which may fail as any.
            said = " ".join(str(error).split())
            raise ConfigError(
                f"{self.place}: the chat template refuses the messages: {said}", "change their roles or their order"
            ) from error
        if whole:
            check_of(tokenizer).check(self.messages, self.place)
        return made


def read_prompts(source: str | Path, field: str, day: date | None = None, most: int | None = None) -> list[PromptRow]:
    """Return the prompts of a file, in its order.

    Args:
        source: The file, a folder of ``datasets``, or the address of a file; see ``pipeline.tasks.prompt_rows``.
        field: What names it in the config.
        day: What chat templates write as today's date; ``None`` leaves it the clock.
        most: Prompts that are read, from the first on; ``None`` reads all.

    Raises:
        ConfigError: It cannot be read, holds no prompt, or a line is broken; names file, line and remedy.
    """
    lookup = "relative paths are looked for beside the config file, then in the working directory"
    rows = prompt_rows(str(source), field, FORM, lookup)
    return [replace(_row(values, place), day=day) for values, place in islice(rows, most)]


def read_answered(path: Path, field: str) -> list[tuple[PromptRow, str]]:
    """Return the prompts of a file with the response that each line holds beside its prompt, in its order.

    Raises:
        ConfigError: It cannot be read, holds nothing, or a line is broken; names file, line and remedy.
    """
    lookup = "relative paths are looked for in the working directory"
    rows = prompt_rows(str(path), field, ANSWERED, lookup)
    return [(_row(values, place), _response(values, place)) for values, place in rows]


def split_prompts(rows: list[PromptRow], share: float) -> tuple[list[PromptRow], list[PromptRow]]:
    """Return the prompts of the training and those held out.

    The choice follows a hash of the prompt: it does not depend on the order of the file, and a prompt that stands
    there twice is on one side only. At least one prompt is on either side.

    Raises:
        ConfigError: All prompts are the same.
    """
    order = sorted({_digest(row) for row in rows})
    if len(order) < 2:
        raise ConfigError(
            f"task.held_out_share: {rows[0].place.rpartition(',')[0]} holds one prompt only",
            "give more prompts, or a file of held_out_prompts",
        )
    chosen = set(order[: min(len(order) - 1, math.ceil(share * len(order)))])
    return [row for row in rows if _digest(row) not in chosen], [row for row in rows if _digest(row) in chosen]


def _digest(row: PromptRow) -> str:
    return hashlib.sha256(json.dumps([row.messages, row.text], sort_keys=True).encode()).hexdigest()


def _response(values: dict[str, Any], place: str) -> str:
    response = values.get("response", "")
    if not isinstance(response, str) or not response:
        raise ConfigError(f"{place}: response is {_kind(response)}", ANSWERED)
    return response


def _row(values: dict[str, Any], place: str) -> PromptRow:
    if "messages" in values:
        if values.get("tools"):
            raise ConfigError(
                f"{place}: tools are given, but no chat template is told of any",
                "remove them, or describe them in the system's message",
            )
        return _chat(values["messages"], place)
    text = values["prompt"]
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f"{place}: prompt is {_kind(text)}", "give a text, or messages")
    return PromptRow(place, None, text)


def _chat(messages: Any, place: str) -> PromptRow:
    if not isinstance(messages, list) or not messages:
        raise ConfigError(f"{place}: messages is {_kind(messages)}", FORM)
    for message in messages:
        fields = message if isinstance(message, dict) else {}
        if not all(isinstance(fields.get(name), str) for name in ("role", "content")):
            raise ConfigError(f"{place}: a message has no role or no content that is a text", FORM)
        if not fields["role"].strip():
            raise ConfigError(f"{place}: the role of a message is empty", FORM)
    if messages[-1]["role"] == "assistant":
        raise ConfigError(f"{place}: the last message is the assistant's own", "end with the user's message")
    return PromptRow(place, messages, "\n".join(message["content"] for message in messages))


def _kind(value: Any) -> str:
    return "empty" if value in ("", [], None) or isinstance(value, str) else f"a {type(value).__name__}"
