"""What a reward function returns is one number for each text, or an error that names the function and the text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from shaping.errors import ConfigError, ShapeError, ShapetuneError, TrialFailed
from shaping.reward_models import TextRewardModel
from shaping.reward_models.returned_scores import asked_scores, checked_scores
from shaping.variants import Variants
from tests.support.models.tiny_families import byte_tokenizer
from tests.support.models.tiny_models import make_rollouts

TEXTS = ["a good film", "a film\nthat is so long that nobody could show all the words of it", ""]


def numbers() -> Iterator[float]:
    yield from (1.0, 2.0, 0.0)


@pytest.mark.parametrize(
    "found",
    [
        [1, 2.0, 0],
        (1, 2, 0),
        [True, Decimal(2), Fraction(0)],
        [np.float32(1), np.int64(2), np.bool_(False)],
        [torch.tensor(1.0), torch.tensor([2.0], requires_grad=True), torch.tensor(0, dtype=torch.int64)],
        np.array([1.0, 2.0, 0.0]),
        np.array([[1.0], [2.0], [0.0]]),
        torch.tensor([1.0, 2.0, 0.0], dtype=torch.bfloat16),
        torch.tensor([[1.0], [2.0], [0.0]]),
        [[1.0], (2.0,), np.array([0.0])],
        numbers(),
        map(float, (1, 2, 0)),
        dict(zip("abc", (1.0, 2.0, 0.0), strict=True)).values(),
    ],
    ids=lambda found: type(found).__name__,
)
def test_what_is_clearly_one_number_a_text_serves(found: Any) -> None:
    scores = checked_scores(found, "judge", TEXTS)
    assert scores == [1.0, 2.0, 0.0]
    assert all(type(score) is float for score in scores)


class Unfloatable:
    def __float__(self) -> float:
        raise TypeError("no number")


@pytest.mark.parametrize(
    ("part", "shown"),
    [
        (None, "returned None"),
        ("1.5", "'1.5', a str"),
        (b"1", "a bytes"),
        ({"score": 1.0}, "a dict"),
        ([1.0, 2.0], "a list"),
        ([], "a list"),
        (1j, "a complex"),
        (np.array([1.0, 2.0]), "a ndarray"),
        (torch.zeros(0), "a Tensor"),
        (["1"], "a list"),
        (Unfloatable(), "a Unfloatable"),
        (object(), "a object"),
    ],
    ids=lambda part: part if isinstance(part, str) else type(part).__name__,
)
def test_a_part_that_is_no_number_is_named_with_its_response(part: Any, shown: str) -> None:
    with pytest.raises(ConfigError) as refused:
        checked_scores([1.0, part, 0.0], "judge", TEXTS)
    for words in ("reward function judge", shown, "response 2 of 3", "'a film that is so long"):
        assert words in refused.value.message
    assert "nobody could show all" not in refused.value.message
    assert "one number for each text" in refused.value.hint


@pytest.mark.parametrize("part", [math.nan, math.inf, 1e300, -(10**400), np.float32("nan"), torch.tensor(math.inf)])
def test_a_number_that_is_not_finite_is_named_with_its_response(part: Any) -> None:
    def judge(texts: list[str]) -> list[Any]:
        return [part if "bad" in text else 1.0 for text in texts]

    tokenizer = byte_tokenizer()
    responses = [tokenizer(text)["input_ids"] for text in ("good", "bad film", "good")]
    rollouts = make_rollouts([tokenizer("a ")["input_ids"]] * 3, responses)
    with pytest.raises(TrialFailed, match=r"reward model judge scored response 1 .* as .*: 'bad film'") as refused:
        TextRewardModel(judge, tokenizer).score(Variants.whole(rollouts))
    assert refused.value.reason == "nan"


async def later(*texts: list[str]) -> list[float]:
    return [0.0]


async def one_by_one(*texts: list[str]) -> Any:
    yield 0.0


def endless() -> Iterator[float]:
    while True:
        yield 0.0


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        (None, "None"),
        (1.0, "a float"),
        ("123", "a str"),
        (b"123", "a bytes"),
        ({"a": 1, "b": 2, "c": 3}, "a dict"),
        ({1.0, 2.0, 3.0}, "a set"),
        (np.float64(1.0), "a float64"),
        (torch.tensor(1.0), "a Tensor"),
        (len, "a builtin_function_or_method"),
    ],
    ids=["none", "number", "text", "bytes", "dictionary", "set", "numpy", "tensor", "function"],
)
def test_what_is_no_list_of_scores_is_refused(found: Any, shown: str) -> None:
    with pytest.raises(ConfigError) as refused:
        checked_scores(found, "judge", TEXTS)
    assert f"reward function judge returned {shown}, not a list" in refused.value.message


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("function", [later, one_by_one])
def test_an_asynchronous_function_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"judge is asynchronous"):
        asked_scores(function, "judge", [TEXTS], TEXTS)


@pytest.mark.parametrize(
    ("found", "count"),
    [
        ([1.0], "1"),
        ([], "0"),
        (range(5), "5"),
        (np.zeros((1, 3)), "1"),
        (torch.zeros(4, 1), "4"),
        (endless(), "more than 3"),
    ],
    ids=["few", "none", "many", "row", "column", "endless"],
)
def test_too_few_and_too_many_scores_are_counted(found: Any, count: str) -> None:
    with pytest.raises(ShapeError, match=rf"judge returned {count} scores for 3 texts\nreturn one.*'a good film'"):
        checked_scores(found, "judge", TEXTS)


@pytest.mark.parametrize("wrong", range(7))
@pytest.mark.parametrize("lazy", [False, True])
def test_an_error_of_the_function_names_the_response_that_it_fails_on(wrong: int, lazy: bool) -> None:
    texts = [f"text {number}" for number in range(7)]

    def score(prompts: list[str], responses: list[str]) -> Any:
        found = (1 / (response != f"text {wrong}") for response in responses)
        return found if lazy else list(found)

    with pytest.raises(ConfigError) as refused:
        asked_scores(score, "judge", [["p"] * 7, texts], texts)
    message = refused.value.message
    assert f"function judge fails on response {wrong + 1} of 7, 'text {wrong}', with ZeroDivisionError" in message
    assert "test_returned_scores.py, line" in message


def test_an_error_that_comes_once_and_an_exit_are_told_too() -> None:
    calls: list[int] = []

    def once(texts: list[str]) -> list[float]:
        calls.append(len(texts))
        if len(calls) == 1:
            raise ConnectionError("the judge\nis away")
        return [0.0] * len(texts)

    def leaves(texts: list[str]) -> list[float]:
        raise SystemExit(0)

    with pytest.raises(ConfigError, match=r"judge fails on 3 responses, with ConnectionError: the judge is away"):
        asked_scores(once, "judge", [TEXTS], TEXTS)
    with pytest.raises(ConfigError, match=r"judge fails on response 1 of 3, 'a good film', with SystemExit"):
        asked_scores(leaves, "judge", [TEXTS], TEXTS)


@pytest.mark.parametrize("error", [MemoryError(), OSError(28, "full"), ShapetuneError("mine")])
def test_what_others_know_what_to_do_about_passes_through(error: Exception) -> None:
    def fails(texts: list[str]) -> list[float]:
        raise error

    with pytest.raises(type(error)) as raised:
        asked_scores(fails, "judge", [TEXTS], TEXTS)
    assert raised.value is error
