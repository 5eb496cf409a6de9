"""Where each token of a response ends in its text, in time that grows with the response and not with its square.

By definition token ``t`` ends where the text of the tokens up to ``t`` stops agreeing with the whole text. Decoding
every prefix costs the square of the length. Decoders look a few tokens back at most (a byte of an unfinished character,
a space before a word), so a window around the token says the same. Byte fallback alone looks at a whole run of bytes:
no window begins inside one. Some prefixes are decoded whole, and where a window's text is not theirs, all are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

# Ids of rows to their texts.
Decode = Callable[[list[list[int]]], list[str]]
# Tokens between two places that windows begin from, and those that a window looks back: more than a character's bytes.
STRIDE, CONTEXT = 8, 8
# Tokens between two prefixes that are decoded whole.
CHECKED = 128


@dataclass(frozen=True)
class TokenEnds:
    """What is found of one response.

    Attributes:
        prompt: The prompt's text.
        response: The response's.
        ends: For each of its tokens, the number of the response's characters that stand after it; non-decreasing.
    """

    prompt: str
    response: str
    ends: list[int]


@dataclass(frozen=True)
class _Prefix:
    """The text of the tokens up to a place, and with how many first characters it agrees with the whole text."""

    text: str
    agreed: int


def token_ends(
    decode: Decode, prompt: list[int], response: list[int], together: Collection[int] = frozenset()
) -> TokenEnds:
    """Return the texts of a prompt and its response, and where each response token ends.

    They are decoded together: some tokenizers drop a leading space where a text begins.

    Args:
        decode: The tokenizer's.
        prompt: Ids of the prompt.
        response: Ids of the response.
        together: Tokens whose runs are decoded as one: see ``byte_tokens``.
    """
    if len(response) <= STRIDE:
        return prefix_by_prefix(decode, prompt, response)
    ids, first = prompt + response, len(prompt)
    places = [*range(first, len(ids), CHECKED), len(ids)]
    begins = range(first, len(ids), STRIDE)
    windows = [
        ids[_window_start(ids, begin, together) : place]
        for begin in begins
        for place in range(begin, min(begin + STRIDE, len(ids)) + 1)
    ]
    # In one call: calls take longer than short rows.
    texts = iter(decode([*(ids[:place] for place in places), *windows]))
    known = dict(zip(places, texts, strict=False))
    whole = known[len(ids)]
    start = agreement(known[first], whole)
    prefix, found = _Prefix(known[first], start), []
    for begin in begins:
        before, longer = next(texts), prefix
        for place in range(begin + 1, min(begin + STRIDE, len(ids)) + 1):
            longer = _longer(prefix, before, next(texts), whole)
            if place in known and longer.text != known[place]:
                return prefix_by_prefix(decode, prompt, response)
            found.append(longer.agreed)
        prefix = longer
    return _told(whole, start, found)


def _window_start(ids: list[int], begin: int, together: Collection[int]) -> int:
    start = max(0, begin - CONTEXT)
    while start > 0 and ids[start] in together and ids[start - 1] in together:
        start -= 1
    return start


@lru_cache(maxsize=16)
def byte_tokens(tokenizer: Any, size: int) -> frozenset[int]:
    """Return the tokens that stand for one byte each in a vocabulary of words, by the names of byte fallback.

    Args:
        tokenizer: A tokenizer.
        size: Of its vocabulary, which may have grown since it was asked last.
    """
    convert = getattr(tokenizer, "convert_tokens_to_ids", None)
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    found = [] if convert is None else convert(names)
    unknown = getattr(tokenizer, "unk_token_id", None)
    return frozenset(int(token) for token in found if token is not None and token != unknown)


def prefix_by_prefix(decode: Decode, prompt: list[int], response: list[int]) -> TokenEnds:
    """Return the same by the definition: every prefix is decoded."""
    texts = decode([prompt + response[:count] for count in range(len(response) + 1)])
    return _told(texts[-1], agreement(texts[0], texts[-1]), [agreement(text, texts[-1]) for text in texts[1:]])


def _told(whole: str, start: int, agreed: list[int]) -> TokenEnds:
    ends, reached = [], 0
    for each in agreed:
        # A later token may change how earlier bytes are shown; what once was complete stays so.
        reached = max(reached, each - start)
        ends.append(reached)
    return TokenEnds(whole[:start], whole[start:], ends)


def _longer(prefix: _Prefix, before: str, window: str, whole: str) -> _Prefix:
    """Return a prefix with some tokens more.

    Args:
        prefix: What is known.
        before: Text of its last tokens.
        window: Text of the same ones and those that are new.
        whole: Text of all tokens.
    """
    shared = agreement(before, window)
    # What the new tokens change of the old ones' text is cut off.
    kept, added = len(prefix.text) - (len(before) - shared), window[shared:]
    if kept > prefix.agreed:
        return _Prefix(prefix.text[:kept] + added, prefix.agreed)
    return _Prefix(prefix.text[:kept] + added, kept + agreement(added, whole[kept : kept + len(added)]))


def agreement(one: str, other: str) -> int:
    """Return how many first characters two texts share."""
    shared = min(len(one), len(other))
    if one[:shared] == other[:shared]:
        return shared
    low, high = 0, shared
    # Their first ``low`` agree, their first ``high`` do not.
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle)
    return low
