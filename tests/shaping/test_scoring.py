import pytest
import torch

from shaping.scoring import Coalitions, score_coalitions
from shaping.units import UnitSplitter, unit_counts
from tests.tiny_models import (
    BOS,
    EOS,
    encode,
    make_rollouts,
    mixed_rollouts,
    plain_score,
    real_ids,
    tiny_classifier,
    tiny_reward_model,
    tiny_tokenizer,
)


class RecordingModel:
    """A reward model that keeps the shape of every forward pass."""

    def __init__(self):
        self.model, self.passes = tiny_reward_model(), []

    def score_rows(self, ids, lengths):
        self.passes.append((tuple(ids.shape), lengths.tolist()))
        return self.model.score_rows(ids, lengths)


def unit_index(rollouts, unit="token", max_units=64):
    return UnitSplitter(tiny_tokenizer()).split(rollouts, unit, 3, max_units)


def random_plan(index, per_response, seed=0):
    """Return random coalitions for every response, grouped by number of units, responses without units included."""
    generator, counts = torch.Generator().manual_seed(seed), unit_counts(index)
    plan = []
    for units in counts.unique().tolist():
        rows = torch.nonzero(counts == units).squeeze(1)
        plan.append(Coalitions(rows, torch.rand(len(rows), per_response, units, generator=generator) < 0.5))
    return plan


def masked_text(rollouts, index, row, members):
    """Return a prompt and what a coalition leaves of its response, written out token by token."""
    prompt, response = real_ids(rollouts, row)
    units = index[row].tolist()
    return prompt + [token for token, unit in zip(response, units, strict=False) if unit < 0 or bool(members[unit])]


@pytest.mark.parametrize("unit", ["token", "span", "sentence"])
@pytest.mark.parametrize("max_tokens", [16_384, 60, 1])
def test_coalition_scores_equal_forward_passes_of_each_masked_text(unit, max_tokens):
    rollouts, classifier = mixed_rollouts(), tiny_classifier()
    index = unit_index(rollouts, unit)
    plan = random_plan(index, per_response=5)
    scored = score_coalitions(tiny_reward_model(), rollouts, index, plan, max_tokens)
    for group, values in zip(plan, scored.values, strict=True):
        assert values.shape == group.members.shape[:2]
        for place, row in enumerate(group.rows.tolist()):
            for number, members in enumerate(group.members[place]):
                expected = plain_score(classifier, masked_text(rollouts, index, row, members))
                assert float(values[place, number]) == pytest.approx(expected, abs=1e-5)


def test_special_tokens_are_present_in_every_coalition():
    response = [*encode("good")[:1], BOS, *encode("bad")[:1], EOS]
    rollouts = make_rollouts([[BOS, 9], [BOS, 9, 11, 12]], [response, response])
    index = unit_index(rollouts)
    assert index.tolist() == [[0, -1, 1, -1]] * 2
    plan = [Coalitions(torch.tensor([0, 1]), torch.tensor([[[False, False], [True, False]]] * 2))]
    values = score_coalitions(tiny_reward_model(), rollouts, index, plan).values[0]
    classifier = tiny_classifier()
    for row, prompt in enumerate([[BOS, 9], [BOS, 9, 11, 12]]):
        assert float(values[row, 0]) == pytest.approx(plain_score(classifier, [*prompt, BOS, EOS]), abs=1e-5)
        kept = [*prompt, response[0], BOS, EOS]
        assert float(values[row, 1]) == pytest.approx(plain_score(classifier, kept), abs=1e-5)


def test_duplicates_are_forwarded_once():
    rollouts = mixed_rollouts().select(torch.tensor([3, 6]))
    index, model = unit_index(rollouts, "span"), RecordingModel()
    counts = unit_counts(index).tolist()
    plan = [Coalitions(torch.tensor([row]), torch.ones(1, 6, counts[row], dtype=torch.bool)) for row in (0, 1)]
    plan[1].members[0, 3:] = False
    scored = score_coalitions(model, rollouts, index, plan)
    assert scored.coalitions == 3
    assert sum(shape[0] for shape, _ in model.passes) == 3
    assert len(set(scored.values[0][0].tolist())) == 1
    assert len(set(scored.values[1][0, :3].tolist())) == len(set(scored.values[1][0, 3:].tolist())) == 1
    assert float(scored.values[1][0, 0]) != float(scored.values[1][0, 3])


@pytest.mark.parametrize("max_tokens", [16_384, 100, 40, 5])
def test_forward_passes_keep_to_the_token_limit_and_count_what_they_cost(max_tokens):
    rollouts, model = mixed_rollouts(), RecordingModel()
    index = unit_index(rollouts)
    scored = score_coalitions(model, rollouts, index, random_plan(index, 8), max_tokens)
    shapes = [shape for shape, _ in model.passes]
    assert all(rows * width <= max_tokens or rows == 1 for rows, width in shapes)
    assert all(max(lengths) == shape[1] for shape, lengths in model.passes)
    assert scored.forwarded_tokens == sum(rows * width for rows, width in shapes)
    assert scored.coalitions == sum(rows for rows, _ in shapes)


def test_whole_coalition_scores_like_the_whole_response():
    rollouts, model = mixed_rollouts(), tiny_reward_model()
    index = unit_index(rollouts)
    plan = [Coalitions(group.rows, torch.ones_like(group.members)) for group in random_plan(index, 1)]
    scored = score_coalitions(model, rollouts, index, plan)
    whole = model.prefix_scores(rollouts)[:, -1]
    for group, values in zip(plan, scored.values, strict=True):
        torch.testing.assert_close(values[:, 0], whole[group.rows], atol=1e-5, rtol=0)
