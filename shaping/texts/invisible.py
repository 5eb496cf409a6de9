"""Which tokens have no characters in the text of a prompt or a response.

A token that was added as a special one may be part of an answer: ``<think>``, ``</think>``, ``<tool_call>``. Only what
frames texts and turns is invisible: beginning and end, padding, and what a chat template opens and closes turns with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

# Named as tokenizers name them.
FRAMING = ("bos", "eos", "pad", "unk", "cls", "sep", "mask")
# Contents that no template changes or repeats.
SYSTEM, FIRST, ANSWER, SECOND = "twenty-seven", "thirty-six", "forty-two", "fifty-one"


def set_ends(tokenizer: Any, ends: Iterable[int]) -> None:
    """Make all of ``ends`` tokens that end a response, beside the tokenizer's end-of-sequence."""
    tokenizer.response_ends = frozenset(int(end) for end in ends)


def ends_of(tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end a response: end-of-sequence and those of ``set_ends``."""
    own = getattr(tokenizer, "eos_token_id", None)
    return frozenset(getattr(tokenizer, "response_ends", ())) | ({own} if own is not None else set())


def invisible_tokens(tokenizer: Any) -> frozenset[int]:
    """Return the tokens that no text shows: those that frame texts, end responses, or open and close turns."""
    named = {getattr(tokenizer, f"{name}_token_id", None) for name in FRAMING}
    # A task may have made another token the end; the one that the files name is none of the answer's words either.
    written = getattr(tokenizer, "init_kwargs", {}).get("eos_token")
    named.add(None if written is None else tokenizer.convert_tokens_to_ids(str(written)))
    template = getattr(tokenizer, "chat_template", None)
    turns = _turn_tokens(tokenizer, str(template), len(tokenizer)) if template else frozenset()
    return frozenset(token for token in named if token is not None) | ends_of(tokenizer) | turns


def shown_tokens(tokenizer: Any) -> frozenset[int]:
    """Return the tokens that were added as special ones and are part of a text nevertheless, such as ``<think>``."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return frozenset(int(token) for token, word in added.items() if word.special) - invisible_tokens(tokenizer)


def control_tokens(tokenizer: Any) -> dict[int, str]:
    """Return the tokens that were added as special ones, with what they are written as."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    found = {int(token): str(word) for token, word in added.items() if word.special}
    listed = [token for token in getattr(tokenizer, "all_special_ids", ()) if token not in found]
    return found | dict(zip(listed, tokenizer.convert_ids_to_tokens(listed), strict=True)) if listed else found


@lru_cache(maxsize=16)
def _turn_tokens(tokenizer: Any, template: str, size: int) -> frozenset[int]:
    """Return the special tokens with which the chat template opens and closes turns."""
    known = {word: token for token, word in control_tokens(tokenizer).items() if word}
    text = _rendered(tokenizer, ("user", FIRST), ("assistant", ANSWER), ("user", SECOND))
    before, _, rest = text.partition(ANSWER)
    between, met, after = rest.partition(SECOND)
    if not met:
        return frozenset(known[word] for word in _words(_rendered(tokenizer, ("user", FIRST)), known))
    turns = {*_words(between, known), *_words(after, known)}
    turns |= _opener(before.partition(FIRST)[2], known, turns)
    turns |= set(_words(_rendered(tokenizer, ("user", FIRST), ("assistant", ANSWER)).rpartition(ANSWER)[2], known)[:1])
    opening, met, rest = _rendered(tokenizer, ("system", SYSTEM), ("user", FIRST)).partition(SYSTEM)
    if met:
        turns |= set(_words(rest.partition(FIRST)[0], known))
        last = _words(opening, known)[-1:]
        # What a template explains at its very beginning is text, however many special tokens it names.
        near = bool(last) and re.fullmatch(r"\s*\w*\s*", opening.rpartition(last[0])[2]) is not None
        turns |= {word for word in last if near and not _encloses(word, known, turns)}
    return frozenset(known[word] for word in turns)


def _rendered(tokenizer: Any, *turns: tuple[str, str]) -> str:
    """Return a chat in the tokenizer's template; nothing where the template refuses it."""
    try:
        chat = [{"role": role, "content": content} for role, content in turns]
        return str(tokenizer.apply_chat_template(chat, tokenize=False))
    except Exception:
        # Templates raise whatever they like, and a role that one refuses opens no turn of it.
        return ""


def _words(text: str, known: dict[str, int]) -> list[str]:
    """Return the special tokens that stand in a text, in its order."""
    longest_first = sorted(known, key=len, reverse=True)
    return re.findall("|".join(map(re.escape, longest_first)), text) if known else []


def _opener(text: str, known: dict[str, int], turns: set[str]) -> set[str]:
    """Return the word with which an answer's turn opens, in the text before the answer, if ``turns`` lacks it.

    What a template puts at the head of every answer, such as an empty ``<think></think>``, opens no turn.
    """
    found = next((word for word in _words(text, known) if word not in turns), None)
    if found is None or _encloses(found, known, turns):
        return set()
    head = text.partition(found)[0]
    for word in turns:
        head = head.replace(word, "")
    return set() if head.strip() else {found}


def _encloses(word: str, known: dict[str, int], turns: set[str]) -> bool:
    """Return whether a word is one of two around a part of an answer, as ``<think>`` and ``</think>`` are."""
    closing = word[:1] + "/" + word[1:]
    return word[1:2] == "/" or (closing in known and closing not in turns)
