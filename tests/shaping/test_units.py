import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shaping.rollouts import Rollouts
from shaping.units import UnitSplitter, on_last_token, unit_counts
from tests.support.counted_kernels import CountedKernels
from tests.support.models.tiny_models import BOS, EOS, PAD, ListTokenizer, encode, make_rollouts, tiny_tokenizer

TOKENS = ["<pad>", "<s>", "</s>", "Ġthe", "Ġfilm", ".", ",", ";", ":", "?", "!", "Ġend.", "▁why?", "x", ".Ġ", "Ġ", "-"]
SPLITTER = UnitSplitter(ListTokenizer(TOKENS))
THE, FILM, DOT, COMMA, X, DOT_SPACE, SPACE = 3, 4, 5, 6, 13, 14, 15
SPAN_ENDS = {index for index, token in enumerate(TOKENS) if token in {*".,;:?!", "Ġend.", "▁why?", ".Ġ"}}
SENTENCE_ENDS = SPAN_ENDS - {6, 7, 8}
modest = settings(derandomize=True, deadline=None, max_examples=150)
responses = st.lists(st.lists(st.integers(0, len(TOKENS) - 1), max_size=14), min_size=1, max_size=4)


def split(rows: list[list[int]], unit: str = "span", max_span: int = 4, max_units: int = 64) -> list[list[int]]:
    rollouts = make_rollouts([[BOS]] * len(rows), rows)
    index = SPLITTER.split(rollouts, unit, max_span, max_units)
    assert index.shape == rollouts.response_ids.shape
    assert bool((index[~rollouts.response_mask] == -1).all())
    return [row[: len(ids)] for row, ids in zip(index.tolist(), rows, strict=True)]


def by_hand(ids: list[int], unit: str, max_span: int) -> list[int]:
    """Return the units of one response, token after token."""
    ends = {"token": set(range(len(TOKENS))), "span": SPAN_ENDS, "sentence": SENTENCE_ENDS}[unit]
    index, current, length, closed = [], -1, 0, True
    for token in ids:
        if token in (PAD, BOS, EOS):
            index.append(-1)
            continue
        if closed or (unit == "span" and length == max_span):
            current, length = current + 1, 0
        length += 1
        closed = token in ends
        index.append(current)
    return index


def test_spans_of_a_sentence():
    assert split([[THE, FILM, COMMA, THE, X, DOT, EOS]]) == [[0, 0, 0, 1, 1, 1, -1]]


def test_long_span_is_cut():
    assert split([[THE, FILM, X, X, DOT, X]], max_span=2) == [[0, 0, 1, 1, 2, 3]]


def test_sentences_are_not_cut_at_commas_or_at_max_span():
    assert split([[THE, COMMA, FILM, X, X, X, DOT, X]], "sentence", max_span=2) == [[0, 0, 0, 0, 0, 0, 0, 1]]


def test_space_behind_a_mark_still_ends_the_span():
    assert split([[THE, DOT_SPACE, X, SPACE, X]]) == [[0, 0, 1, 1, 1]]


def test_tokens_of_a_real_tokenizer():
    ids = encode("the film was good, why?")
    index = UnitSplitter(tiny_tokenizer()).split(make_rollouts([[BOS]], [[*ids, EOS]]), "span", 64, 64)[0].tolist()
    comma = tiny_tokenizer().convert_ids_to_tokens(ids).index(",")
    assert index == [0] * (comma + 1) + [1] * (len(ids) - comma - 1) + [-1]


def test_merged_units_are_neighbours_of_like_size():
    assert split([[X] * 10], "token", max_units=4) == [[0, 0, 0, 1, 1, 2, 2, 2, 3, 3]]


@modest
@given(rows=responses, unit=st.sampled_from(["token", "span", "sentence"]), max_span=st.integers(1, 5))
def test_split_equals_reading_token_after_token(rows, unit, max_span):
    assert split(rows, unit, max_span) == [by_hand(row, unit, max_span) for row in rows]


def by_hand_between_answers(ids: list[int], own: list[bool], unit: str, max_span: int) -> list[int]:
    """Return the units where some tokens are another's answers: each stretch of the policy's begins one."""
    found, stretch, count = [-1] * len(ids), list[int](), 0
    for place in range(len(ids) + 1):
        if place < len(ids) and own[place]:
            stretch.append(place)
            continue
        units = by_hand([ids[each] for each in stretch], "sentence" if unit == "turn" else unit, max_span)
        if unit == "turn":
            units = [min(each, 0) for each in units]
        for each, at in zip(stretch, units, strict=True):
            found[each] = at + count if at >= 0 else -1
        count, stretch = count + max([0, *(at + 1 for at in units)]), []
    return found


@modest
@given(
    rows=st.lists(st.lists(st.tuples(st.integers(0, len(TOKENS) - 1), st.booleans()), min_size=1, max_size=14)),
    unit=st.sampled_from(["token", "span", "sentence", "turn"]),
    max_span=st.integers(1, 5),
)
def test_answers_of_others_end_units_and_belong_to_none(rows, unit, max_span):
    if not rows:
        return
    ids, own = [[token for token, _ in row] for row in rows], [[each for _, each in row] for row in rows]
    whole = make_rollouts([[BOS]] * len(rows), ids)
    width = whole.response_ids.shape[1]
    mine = torch.tensor([row + [False] * (width - len(row)) for row in own])
    rollouts = Rollouts(whole.prompt_ids, whole.prompt_mask, whole.response_ids, whole.response_mask, mine)
    found = SPLITTER.split(rollouts, unit, max_span, 64).tolist()
    assert [row[: len(each)] for row, each in zip(found, ids, strict=True)] == [
        by_hand_between_answers(row, flags, unit, max_span) for row, flags in zip(ids, own, strict=True)
    ]


def test_units_of_long_responses_take_few_kernels():
    rollouts = make_rollouts([[BOS]], [[X, DOT, THE, COMMA] * 256])
    counted = CountedKernels()
    with counted:
        SPLITTER.split(rollouts, "span", 8, 12)
    # Token by token they were 12,308.
    assert 5 < counted.count < 100


@modest
@given(
    rows=responses,
    unit=st.sampled_from(["token", "span", "sentence"]),
    max_span=st.integers(1, 5),
    max_units=st.integers(1, 16),
)
def test_units_are_numbered_without_gaps_and_bounded(rows, unit, max_span, max_units):
    for ids, index in zip(rows, split(rows, unit, max_span, max_units), strict=True):
        special = [token in (PAD, BOS, EOS) for token in ids]
        assert [number == -1 for number in index] == special
        present = [number for number in index if number >= 0]
        assert present == sorted(present)
        assert sorted(set(present)) == list(range(len(set(present))))
        assert len(set(present)) <= max_units
        full = len(set(by_hand(ids, unit, max_span)) - {-1})
        assert len(set(present)) == min(full, max_units)


@modest
@given(rows=responses, max_span=st.integers(1, 5))
def test_spans_end_at_marks_and_are_at_most_max_span_long(rows, max_span):
    for ids, index in zip(rows, split(rows, "span", max_span), strict=True):
        for unit in set(index) - {-1}:
            inside = [token for token, number in zip(ids, index, strict=True) if number == unit]
            assert len(inside) <= max_span
            assert not SPAN_ENDS & set(inside[:-1])


@modest
@given(rows=responses, unit=st.sampled_from(["token", "span", "sentence"]), max_units=st.integers(1, 6))
def test_each_unit_puts_its_value_once_on_its_last_token(rows, unit, max_units):
    index = torch.tensor([row + [-1] * (14 - len(row)) for row in split(rows, unit, 3, max_units)])
    counts = unit_counts(index)
    values = torch.arange(1.0, 7.0).repeat(len(rows), 1) + 10 * torch.arange(len(rows))[:, None]
    placed = on_last_token(values, index)
    for row in range(len(rows)):
        expected = torch.zeros(index.shape[1])
        for number in range(int(counts[row])):
            expected[int(torch.nonzero(index[row] == number).max())] = values[row, number]
        torch.testing.assert_close(placed[row], expected, msg=f"units {index[row].tolist()}: {placed[row].tolist()}")


def test_unit_around_a_special_token_puts_its_value_once():
    # A policy may sample <pad> or <s> inside a span: the span goes on behind it.
    index = torch.tensor(split([[THE, BOS, FILM, DOT]]))
    placed = on_last_token(torch.tensor([[5.0]]), index)
    assert placed.tolist() == [[0.0, 0.0, 0.0, 5.0]]


def test_unit_counts_of_responses_without_units():
    assert unit_counts(torch.tensor([[-1, -1], [0, -1], [0, 1]])).tolist() == [0, 1, 2]


@pytest.mark.parametrize("max_units", [1, 2, 3])
def test_max_units_merges_only_responses_that_have_more(max_units):
    one, other = split([[X, X, X], [X, X]], "token", max_units=max_units)
    assert (max(one) + 1, max(other) + 1) == (min(3, max_units), min(2, max_units))
