import pytest
import torch

from shaping import Rollouts, ShapeError
from shaping.rollouts import model_inputs, padded, place_on_last_token, unpadded
from tests.support.models.tiny_models import make_rollouts

IDS = torch.zeros(2, 3, dtype=torch.long)
FULL = torch.ones(2, 3, dtype=torch.bool)
HOLE = torch.tensor([[True, False, True], [True, True, True]])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((IDS[0], FULL[0], IDS, FULL), "prompt_ids"),
        ((IDS, FULL[:, :2], IDS, FULL), "prompt_ids"),
        ((IDS, FULL.long(), IDS, FULL), "prompt_ids and prompt_mask .*int64"),
        ((IDS, FULL, IDS, FULL[:1]), "response_ids"),
        ((IDS, FULL, IDS, FULL.float()), "response_ids and response_mask .*float32"),
        ((IDS, FULL, IDS[:1], FULL[:1]), "2 prompts and 1 responses"),
        ((IDS, FULL, IDS, HOLE), "response_mask must be padded on the right"),
        ((IDS, FULL, IDS, ~torch.tensor([[True, False, False], [False] * 3])), "response_mask"),
        ((IDS, HOLE, IDS, FULL), "prompt_mask must be padded on the left"),
        ((IDS, torch.tensor([[True, True, False]] * 2), IDS, FULL), "prompt_mask"),
    ],
)
def test_rollouts_refuse(fields, message):
    with pytest.raises(ShapeError, match=message) as caught:
        Rollouts(*fields)
    assert isinstance(caught.value, ValueError)


def test_counts_and_positions():
    rollouts = make_rollouts([[1], [1, 5, 6]], [[7, 8], []])
    assert len(rollouts) == 2
    assert rollouts.prompt_tokens.tolist() == [1, 3]
    assert rollouts.response_tokens.tolist() == [2, 0]
    assert rollouts.last_token.tolist() == [1, 0]
    ids, mask = rollouts.sequences()
    assert ids.tolist() == [[0, 0, 1, 7, 8], [1, 5, 6, 0, 0]]
    assert mask.long().tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]]


def test_select_takes_rows_in_the_given_order():
    rollouts = make_rollouts([[1], [1, 5, 6], [2]], [[7, 8], [], [9]])
    chosen = rollouts.select(torch.tensor([2, 0]))
    assert chosen.response_ids.tolist() == [[9, 0], [7, 8]]
    assert chosen.prompt_tokens.tolist() == [1, 1]


def test_value_is_placed_on_the_last_token_and_nowhere_in_an_empty_response():
    rollouts = make_rollouts([[1]] * 3, [[7, 8, 9], [], [7]])
    placed = place_on_last_token(torch.tensor([2.0, 3.0, 4.0]), rollouts)
    assert placed.tolist() == [[0, 0, 2], [0, 0, 0], [4, 0, 0]]


def test_model_inputs_count_positions_from_the_first_real_token():
    padded = model_inputs(make_rollouts([[1], [1, 5, 6]], [[7, 8], [9]]))
    assert padded["position_ids"].tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 3]]
    assert padded["attention_mask"].tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 0]]


def test_model_inputs_without_padded_prompts_need_no_mask():
    assert set(model_inputs(make_rollouts([[1], [2]], [[7, 8], [9]]))) == {"input_ids"}


@pytest.mark.parametrize("left", [True, False])
def test_unpadded_returns_what_padded_was_given(left):
    rows = [[3, 0, 5], [], [7]]
    assert unpadded(*padded(rows, left)) == rows
