"""What a reward model reads in place of each prompt: its own chat template and its own beginning-of-sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.tasks.prompt_file import PromptRow
from shaping.alignment import texts_of
from shaping.rollouts import opening_tokens
from shaping.texts.invisible import control_tokens, invisible_tokens


@dataclass(frozen=True)
class PolicySide:
    """What a reward model must know of the policy.

    Attributes:
        tokenizer: Its tokenizer.
        tokens: Different tokens that it can say.
        prompts: All prompts with their ids, of the training and held out.
        more_ends: Tokens that end a response beside the tokenizer's end-of-sequence.
    """

    tokenizer: Any
    tokens: int
    prompts: Sequence[tuple[PromptRow, list[int]]]
    more_ends: tuple[int, ...] = ()

    @property
    def chat(self) -> bool:
        """Whether any prompt is a chat."""
        return any(row.messages is not None for row, _ in self.prompts)


class PromptTexts:
    """From the text of a prompt's tokens to what a function of texts gets in its place.

    Args:
        policy: Whose prompts are known; any other stays as it is.
        rewrite: What becomes of each.

    Attributes:
        notes: A line on prompts that have one text without the tokens that open and close turns, where there are any.
    """

    def __init__(self, policy: PolicySide, rewrite: Callable[[PromptRow], str]) -> None:
        texts = texts_of(policy.tokenizer, [ids for _, ids in policy.prompts])
        rewritten = [(text.strip(), rewrite(row)) for text, (row, _) in zip(texts, policy.prompts, strict=True)]
        self._known = dict(rewritten)
        places = [row.place for row, _ in policy.prompts]
        joined = [place for place, (text, own) in zip(places, rewritten, strict=True) if self._known[text] != own]
        self.notes = _one_form("it", joined)

    def __call__(self, text: str) -> str:
        """Return what stands for the prompt of that text."""
        return self._known.get(text.strip(), text)


class PromptForms:
    """From a prompt's ids to what a reward model reads in its place, as a text.

    Texts would not do: without the tokens that open and close turns, two chats may have one text.

    Args:
        policy: Whose prompts are known.
        tokenizer: The reward model's.
        opened: Whether the reward model puts what opens a text before every text itself, as encoders do.

    Attributes:
        notes: Lines on what the reward model does not read as the policy does.

    Raises:
        ConfigError: The reward model's chat template refuses the messages; names file and line.
    """

    def __init__(self, policy: PolicySide, tokenizer: Any, opened: bool = False) -> None:
        self._policy, self._tokenizer, self._opened = policy, tokenizer, opened
        self._forms = [(row, tuple(ids), self._form(row)) for row, ids in policy.prompts]
        self._known = {ids: form for _, ids, form in self._forms}
        self.notes = (*self._lost(), *self._joined(), *self._unread())

    def __call__(self, ids: list[int]) -> str | None:
        """Return what stands for the prompt of these ids; ``None`` for one that is not the task's."""
        return self._known.get(tuple(ids))

    @property
    def templated(self) -> bool:
        """Whether a chat template opens every text."""
        return bool(self._tokenizer.chat_template) and all(row.messages is not None for row, _ in self._policy.prompts)

    def _form(self, row: PromptRow) -> str:
        if row.messages is None:
            return without_beginning(row.text, self._policy.tokenizer)
        if not self._tokenizer.chat_template:
            return f"{row.text}\n"
        text = str(row.templated(self._tokenizer, whole=False, tokenize=False))
        return without_beginning(text, self._tokenizer) if self._opened else text

    def _lost(self) -> tuple[str, ...]:
        """Return a line on messages that the reward model's chat template leaves out, where it does."""
        lost = [
            (row.place, message["role"])
            for row, _, form in self._forms
            for message in row.messages or ()
            if not _holds(form, message["content"])
        ]
        if not lost:
            return ()
        (place, role), count = lost[0], len({place for place, _ in lost})
        return (f"its chat template leaves out words of prompts ({count}), first of {role} in {place}",)

    def _joined(self) -> tuple[str, ...]:
        """Return a line on prompts that it tells apart and the policy does not, where there are any."""
        return _one_form("the policy", [row.place for row, ids, form in self._forms if form != self._known[ids]])

    def _unread(self) -> tuple[str, ...]:
        """Return a line on prompts that are in the policy's chat template already, where the other has another."""
        words = _turn_words(self._policy.tokenizer) - set(self._tokenizer.get_vocab())
        plain = [row for row, _, _ in self._forms if row.messages is None]
        marked = [row.place for row in plain if any(word in row.text for word in words)]
        if not marked:
            return ()
        return (
            f"prompts ({len(set(marked))}) hold control words of the policy's, which it reads as text, "
            f"first {marked[0]}: write them as messages",
        )


def _one_form(whom: str, joined: list[str]) -> tuple[str, ...]:
    """Return a line on the places of prompts that ``whom`` cannot tell from others, where there are any."""
    if not joined:
        return ()
    return (
        f"prompts that are one to {whom} ({len(set(joined))}), first {joined[0]}, are read in one form: the last's",
    )


def reads_otherwise(policy: PolicySide, tokenizer: Any) -> bool:
    """Return whether a reward model of the policy's vocabulary has another form of some prompt than the policy.

    A chat is in the policy's form where the reward model has no chat template.

    Raises:
        ConfigError: The reward model's chat template refuses the messages; names file and line.
    """
    rows = policy.prompts if tokenizer.chat_template else [each for each in policy.prompts if each[0].messages is None]
    return any(row.ids(tokenizer, whole=False) != ids for row, ids in rows)


def without_beginning(text: str, tokenizer: Any) -> str:
    """Return a text without the beginning-of-sequence of the tokenizer, where it begins with that word."""
    words = tokenizer.convert_ids_to_tokens(opening_tokens(tokenizer)) or [tokenizer.bos_token or ""]
    return text.removeprefix("".join(words))


def _holds(text: str, content: str) -> bool:
    """Return whether a text holds a message's content, spaces aside; without its thoughts, if it begins with them."""
    whole, answer = " ".join(text.split()), content.rpartition("</think>")[2]
    return any(" ".join(part.split()) in whole for part in (content, answer))


def _turn_words(tokenizer: Any) -> set[str]:
    known, opening = control_tokens(tokenizer), set(opening_tokens(tokenizer))
    return {known[token] for token in invisible_tokens(tokenizer) - opening if known.get(token)}
