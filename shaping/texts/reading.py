"""A prompt and a response as another tokenizer reads them: one text, in which written words stay words.

The text is encoded once, as the tokenizer encodes any text, so that words may join across the end of the prompt. A
control word of the tokenizer's that a policy spelled with ordinary tokens would become a control token there. A copy of
the tokenizer encodes such texts: its control words are spelled in letters that the text does not hold.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from shaping.errors import ConfigError
from shaping.texts.invisible import control_tokens

Span = tuple[int, int]
# Planes that Unicode leaves to private use.
PRIVATE, LAST_PRIVATE = 0xF0000, 0x10FFFD


@dataclass(frozen=True)
class Reading:
    """A prompt and a response in a tokenizer's tokens.

    Attributes:
        prompt: Ids of the tokens that end within the prompt.
        response: Ids of all others.
        ends: For each of the latter how many characters of the response stand before its end.
    """

    prompt: list[int]
    response: list[int]
    ends: list[int]

    @classmethod
    def joined(cls, tokenizer: Any, prompt: str, response: str, genuine: Sequence[Span] = ()) -> Reading:
        """Return how the tokenizer reads the two as one text.

        Args:
            tokenizer: Must give offsets.
            prompt: Its control words are control tokens.
            response: Its control words are text, but for those at ``genuine``.
            genuine: Where in the response one token of the policy stands that was added to its vocabulary.
        """
        border = len(prompt)
        ids, ends = _encoded(tokenizer, prompt + response, border, [(a + border, b + border) for a, b in genuine])
        first = next((place for place, end in enumerate(ends) if end > border), len(ids))
        return cls(ids[:first], ids[first:], [max(0, end - border) for end in ends[first:]])

    @classmethod
    def apart(cls, tokenizer: Any, prompt: str, response: str, genuine: Sequence[Span] = ()) -> Reading:
        """Return how the tokenizer reads the two as two texts; see ``joined``."""
        before, _ = _encoded(tokenizer, prompt, len(prompt), ())
        return cls(before, *_encoded(tokenizer, response, 0, genuine))


def check_offsets(tokenizer: Any) -> None:
    """Refuse a tokenizer that does not say where its tokens stand in the text.

    Raises:
        ConfigError: It is no fast one.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError(
            f"the reward model's tokenizer {type(tokenizer).__name__} gives no character offsets",
            "load its fast version (a tokenizer.json)",
        )


def _encoded(tokenizer: Any, text: str, border: int, genuine: Sequence[Span]) -> tuple[list[int], list[int]]:
    """Return ids and ends; control words from ``border`` on become control tokens where they are genuine alone."""
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets, control = list(found["input_ids"]), found["offset_mapping"], control_tokens(tokenizer)
    stand = [
        (_place(text, control[token], start, end), token)
        for token, (start, end) in zip(ids, offsets, strict=True)
        if token in control
    ]
    written = [(span, token) for span, token in stand if span is not None]
    true = [(span, token) for span, token in written if span[1] <= border or span in genuine]
    if len(true) == len(written):
        return ids, [end for _, end in offsets]
    copy = _respelled(tokenizer, len(tokenizer), _first_private(text, len(control)))
    return copy.encode(text, true)


def _place(text: str, word: str, start: int, end: int) -> Span | None:
    """Return where a token's own word stands; ``None`` where the token stands for other letters, as unknown ones do."""
    place = text.find(word, start, end)
    return None if place < 0 else (place, place + len(word))


def _first_private(text: str, count: int) -> int:
    """Return the first of ``count`` letters for private use none of which is in the text."""
    used = {(ord(letter) - PRIVATE) // count for letter in text if ord(letter) >= PRIVATE}
    blocks = range((LAST_PRIVATE - PRIVATE) // count)
    return PRIVATE + count * next(block for block in blocks if block not in used)


@dataclass(frozen=True)
class _Respelled:
    """A copy of a tokenizer: ``words`` are the new control words by token, ``tokens`` the tokens by the copy's ids."""

    backend: Any
    words: dict[int, str]
    tokens: dict[int, int]

    def encode(self, text: str, control: list[tuple[Span, int]]) -> tuple[list[int], list[int]]:
        """Return ids and ends of a text that has control tokens at the given places only."""
        for (start, end), token in control:
            text = text[:start] + self.words[token] + text[end:]
        found = self.backend.encode(text, add_special_tokens=False)
        return [self.tokens.get(token, token) for token in found.ids], [end for _, end in found.offsets]


@lru_cache(maxsize=4)
def _respelled(tokenizer: Any, size: int, first: int) -> _Respelled:
    """Return a copy that spells each control word in one private letter, as often as the word has letters."""
    control = control_tokens(tokenizer)
    words = {token: chr(first + place) * len(word) for place, (token, word) in enumerate(control.items())}
    names = {word: words[token] for token, word in control.items()}
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    for added in state["added_tokens"]:
        if added["content"] in names:
            added |= {"content": names[added["content"]], "normalized": False}
    model, state["truncation"], state["padding"] = state["model"], None, None
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(word, word): token for word, token in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(word, word), *rest] for word, *rest in model["vocab"]]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        model["merges"] = [pair for pair in model["merges"] if not _spells(pair, names)]
    backend = type(tokenizer.backend_tokenizer).from_str(json.dumps(state))
    return _Respelled(backend, words, {backend.token_to_id(word): token for token, word in words.items()})


def _spells(pair: str | list[str], names: dict[str, str]) -> bool:
    """Return whether a merge makes a control word, or is made of one."""
    parts = pair.split(" ") if isinstance(pair, str) else pair
    return any(part in names for part in (*parts, "".join(parts)))
