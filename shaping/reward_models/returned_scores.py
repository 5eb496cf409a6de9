"""What a reward function returned, as one number for each response, or an error that names which is wrong."""

from __future__ import annotations

import errno
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from itertools import islice
from typing import Any

import torch

from shaping.errors import ConfigError, ShapeError, ShapetuneError, is_out_of_memory
from shaping.user_code import error_and_place

EXPECTED = "return one number for each text, in order"
# Scores are kept in single precision.
LARGEST = torch.finfo(torch.float32).max
# A disk that takes nothing more is no fault of the function.
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
SHOWN_CHARACTERS = 40


def asked_scores(
    function: Callable[..., Any], name: str, lists: Sequence[list[str]], responses: Sequence[str]
) -> list[float]:
    """Return the scores that a function gives for lists of texts, one for each response.

    Args:
        function: Takes the lists.
        name: What it is called in errors.
        lists: What it is given, such as prompts and responses.
        responses: What each score belongs to, for errors.

    Raises:
        ConfigError: It raises an error, or returns something else than a number for each response; names it, the
            response and what is expected.
        ShapeError: There are more or fewer numbers than responses.
    """
    try:
        return checked_scores(function(*lists), name, responses)
    except ShapetuneError:
        raise
    except (Exception, SystemExit) as error:
        if is_out_of_memory(error) or (isinstance(error, OSError) and error.errno in UNWRITABLE):
            raise
        place = _first_refused(function, lists)
        which = f"on {len(responses)} responses" if place is None else f"on {_shown(responses, place)}"
        raise ConfigError(
            f"the reward function {name} fails {which}, with {error_and_place(error)}",
            f"{EXPECTED}, also for responses that are empty or cut off",
        ) from error


def checked_scores(found: Any, name: str, responses: Sequence[str]) -> list[float]:
    """Return what a reward function returned as numbers.

    Lists, tuples, arrays, tensors, columns of ``n x 1`` and generators of numbers serve; true is 1 and false is 0.
    NaN stays, and what single precision cannot hold is infinite: whoever wants them finite knows more of the response.

    Args:
        found: What it returned.
        name: What it is called in errors.
        responses: What each score belongs to.

    Raises:
        ConfigError: It is no such thing, or a part of it is no number.
        ShapeError: There are more or fewer numbers than responses.
    """
    _check_listed(found, name)
    # One more than wanted: a generator may have no end.
    scores = list(islice(iter(found), len(responses) + 1))
    if len(scores) != len(responses):
        returned, texts = _count(found, scores, len(responses)), f"{len(responses)} texts"
        raise ShapeError(
            f"the reward function {name} returned {returned} scores for {'one text' if len(responses) == 1 else texts}",
            f"{EXPECTED}; the first of them is {first_words(responses[0])}" if responses else EXPECTED,
        )
    return [_number(score, name, responses, place) for place, score in enumerate(scores)]


def _check_listed(found: Any, name: str) -> None:
    """Refuse what has no order, or whose parts are no scores: a mapping's are its keys, a text's its characters."""
    if inspect.isawaitable(found) or inspect.isasyncgen(found):
        if inspect.iscoroutine(found):
            found.close()
        raise ConfigError(
            f"the reward function {name} is asynchronous: it returned a {type(found).__name__}, not scores",
            "name a plain function, such as one that calls asyncio.run",
        )
    unordered = isinstance(found, str | bytes | bytearray | Mapping | Set)
    # A 0-d array says that it can be iterated, and cannot.
    single = getattr(found, "shape", None) == ()
    if unordered or single or not isinstance(found, Iterable):
        kind = "None" if found is None else f"a {type(found).__name__}"
        raise ConfigError(f"the reward function {name} returned {kind}, not a list of scores", EXPECTED)


def _count(found: Any, scores: list[Any], wanted: int) -> str:
    if len(scores) <= wanted:
        return str(len(scores))
    return str(len(found)) if hasattr(found, "__len__") else f"more than {wanted}"


def _number(score: Any, name: str, responses: Sequence[str], place: int) -> float:
    """Return one score as a number; what is a text, a mapping or nothing is none, whatever it could be turned into."""
    value = score
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if getattr(value, "shape", None) in ((1,), ()) and hasattr(value, "item"):
        value = value.item()
    if inspect.iscoroutine(value):
        value.close()
    try:
        refused = isinstance(value, str | bytes | bytearray | Mapping | complex) or not hasattr(value, "__float__")
        number = math.nan if refused else float(value)
    except OverflowError:
        refused, number = False, math.inf
    except (TypeError, ValueError):
        refused, number = True, math.nan
    if refused:
        kind = "None" if score is None else f"{score!r:.40}, a {type(score).__name__}"
        raise ConfigError(f"the reward function {name} returned {kind} for {_shown(responses, place)}", EXPECTED)
    return math.copysign(math.inf, number) if abs(number) > LARGEST else number


def _first_refused(function: Callable[..., Any], lists: Sequence[list[str]]) -> int | None:
    """Return the place of the first text on which a function fails, found by halves; ``None`` where it does not again.

    A function that fails for want of a service fails on the first one.
    """
    first, last = 0, len(lists[0])
    while last - first > 1:
        middle = (first + last) // 2
        if _fails(function, lists, first, middle):
            last = middle
        else:
            first = middle
    return first if last > first and _fails(function, lists, first, last) else None


def _fails(function: Callable[..., Any], lists: Sequence[list[str]], first: int, last: int) -> bool:
    try:
        found = function(*(texts[first:last] for texts in lists))
        if isinstance(found, Iterable):
            list(islice(iter(found), last - first + 1))
    except (Exception, SystemExit):
        return True
    return False


def _shown(responses: Sequence[str], place: int) -> str:
    return f"response {place + 1} of {len(responses)}, {first_words(responses[place])}"


def first_words(response: str) -> str:
    """Return the first words of a response, in quotes."""
    text = " ".join(response.split())
    return repr(text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}...")
