"""The engine's outer half: which variants it asks a reward model for, and what it makes of the answers."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from shaping import TrialFailed, scoring
from shaping.reward_models import VariantScores
from shaping.scoring import Coalitions, check_finite, score_coalitions, score_responses
from shaping.units import unit_counts
from shaping.variants import NO_TOKEN, Variants
from tests.support.models.tiny_models import (
    BOS,
    EOS,
    encode,
    make_rollouts,
    mixed_rollouts,
    plain_score,
    real_ids,
    tiny_classifier,
    tiny_reward_model,
)
from tests.support.models.tiny_plans import planned_texts, random_plan, unit_index


class RecordingModel:
    """A reward model that keeps what it was asked, one ``(response, kept places)`` for each variant of each call."""

    name, abilities, layers = "recorder", frozenset(), 0

    def __init__(self, answer=None):
        self.model, self.answer, self.calls = tiny_reward_model(), answer, []

    def score(self, variants):
        keeps = [tuple(keep) for keep in variants.keep.tolist()]
        self.calls.append(list(zip(variants.owner.tolist(), keeps, strict=True)))
        return self.model.score(variants) if self.answer is None else self.answer(variants)


@pytest.mark.parametrize("unit", ["token", "span", "sentence"])
@pytest.mark.parametrize("max_units", [64, 2])
def test_coalition_scores_equal_forward_passes_of_each_masked_text(unit, max_units):
    rollouts, classifier = mixed_rollouts(), tiny_classifier()
    index = unit_index(rollouts, unit, max_units)
    plan = random_plan(index, per_response=5)
    scored = score_coalitions(tiny_reward_model(), rollouts, plan)
    assert [values.shape for values in scored.values] == [group.members.shape[:2] for group in plan]
    expected = [plain_score(classifier, prompt + kept) for prompt, kept in planned_texts(rollouts, plan, index)]
    assert torch.cat([values.flatten() for values in scored.values]).tolist() == pytest.approx(expected, abs=1e-4)


def test_special_tokens_are_present_in_every_coalition():
    response = [*encode("good")[:1], BOS, *encode("bad")[:1], EOS]
    rollouts = make_rollouts([[BOS, 9], [BOS, 9, 11, 12]], [response, response])
    index = unit_index(rollouts)
    assert index.tolist() == [[0, -1, 1, -1]] * 2
    plan = [Coalitions(torch.tensor([0, 1]), torch.tensor([[[False, False], [True, False]]] * 2), index)]
    values = score_coalitions(tiny_reward_model(), rollouts, plan).values[0]
    classifier = tiny_classifier()
    for row, prompt in enumerate([[BOS, 9], [BOS, 9, 11, 12]]):
        assert float(values[row, 0]) == pytest.approx(plain_score(classifier, [*prompt, BOS, EOS]), abs=1e-4)
        kept = [*prompt, response[0], BOS, EOS]
        assert float(values[row, 1]) == pytest.approx(plain_score(classifier, kept), abs=1e-4)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), per_response=st.integers(1, 12), most=st.sampled_from([1, 50, 300, 2**22]))
def test_each_distinct_variant_is_asked_for_once_a_portion_and_every_coalition_gets_its_own_answer(
    seed, per_response, most
):
    rollouts, index = mixed_rollouts(), unit_index(mixed_rollouts(), "span")

    def answer(variants):
        # A value that says which response and which tokens it was asked for.
        weights = torch.arange(1, variants.keep.shape[1] + 1).float()
        return VariantScores(variants.owner * 1000.0 + variants.keep.float() @ weights, len(variants))

    model = RecordingModel(answer)
    plan = random_plan(index, per_response, seed) + random_plan(index, 2, seed + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "MOST_PLANNED_TOKENS", most)
        scored = score_coalitions(model, rollouts, plan)
    for group, values in zip(plan, scored.values, strict=True):
        for place, row in enumerate(group.rows.tolist()):
            for members, value in zip(group.members[place], values[place].tolist(), strict=True):
                units = [unit for unit, real in zip(index[row], rollouts.response_mask[row], strict=True) if real]
                kept = [token for token, unit in enumerate(units, start=1) if unit < 0 or bool(members[unit])]
                assert value == row * 1000 + sum(kept)
    assert all(len(set(asked)) == len(asked) for asked in model.calls)
    assert scored.coalitions == scored.forwarded_tokens == sum(len(asked) for asked in model.calls)
    if most == 2**22:
        assert len(model.calls) == 1


@pytest.mark.parametrize(("responses", "calls"), [(3, 3), (1, 7), (0, 7)])
def test_a_portion_holds_no_more_tokens_than_the_bound_or_the_coalitions_of_one_response(responses, calls, monkeypatch):
    rollouts, index = mixed_rollouts(), unit_index(mixed_rollouts())
    of_one = 4 * rollouts.response_ids.shape[1]
    monkeypatch.setattr(scoring, "MOST_PLANNED_TOKENS", max(1, responses * of_one))
    model = RecordingModel()
    scored = score_coalitions(model, rollouts, random_plan(index, per_response=4))
    whole = score_coalitions(tiny_reward_model(), rollouts, random_plan(index, per_response=4))
    assert len(model.calls) == calls
    assert max(len({row for row, _ in asked}) for asked in model.calls) == max(1, responses)
    for one, other in zip(scored.values, whole.values, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_coalitions_that_two_methods_plan_are_scored_once():
    rollouts = mixed_rollouts().select(torch.tensor([3, 6]))
    index, model = unit_index(rollouts, "span"), RecordingModel()
    counts = unit_counts(index).tolist()
    plan = [
        Coalitions(torch.tensor([row]), torch.ones(1, 6, counts[row], dtype=torch.bool), index[row : row + 1])
        for row in (0, 1)
    ]
    plan[1].members[0, 3:] = False
    scored = score_coalitions(model, rollouts, [*plan, *plan])
    assert scored.coalitions == 3
    assert sum(len(asked) for asked in model.calls) == 3
    assert scored.forwarded_tokens > 0
    for values in (scored.values[:2], scored.values[2:]):
        assert len(set(values[0][0].tolist())) == 1
        assert len(set(values[1][0, :3].tolist())) == len(set(values[1][0, 3:].tolist())) == 1
        assert float(values[1][0, 0]) != float(values[1][0, 3])


def test_methods_may_divide_one_response_into_different_players():
    rollouts, classifier = mixed_rollouts().select(torch.tensor([3])), tiny_classifier()
    tokens, spans = unit_index(rollouts, "token"), unit_index(rollouts, "span")
    plan = [
        Coalitions(torch.tensor([0]), torch.eye(int(unit_counts(index)), dtype=torch.bool)[None], index)
        for index in (tokens, spans)
    ]
    scored = score_coalitions(tiny_reward_model(), rollouts, plan)
    prompt, response = real_ids(rollouts, 0)
    for index, values in zip((tokens, spans), scored.values, strict=True):
        alone = [
            [token for token, unit in zip(response, index[0].tolist(), strict=True) if unit == player]
            for player in range(int(unit_counts(index)))
        ]
        expected = [plain_score(classifier, prompt + kept) for kept in alone]
        assert values[0].tolist() == pytest.approx(expected, abs=1e-4)


def test_a_plan_without_coalitions_asks_for_nothing():
    model = RecordingModel()
    scored = score_coalitions(model, mixed_rollouts(), [])
    assert (scored.values, scored.coalitions, scored.forwarded_tokens) == ([], 0, 0)
    assert model.calls == []


def test_whole_coalition_scores_like_the_whole_response():
    rollouts, model = mixed_rollouts(), tiny_reward_model()
    plan = random_plan(unit_index(rollouts), 1)
    plan = [Coalitions(group.rows, torch.ones_like(group.members), group.unit_index) for group in plan]
    scored = score_coalitions(model, rollouts, plan)
    pairs = [real_ids(rollouts, row) for row in range(len(rollouts))]
    whole = [plain_score(tiny_classifier(), prompt + response) for prompt, response in pairs]
    for group, values in zip(plan, scored.values, strict=True):
        assert values[:, 0].tolist() == pytest.approx([whole[row] for row in group.rows.tolist()], abs=1e-4)
    assert score_responses(model, rollouts).tolist() == pytest.approx(whole, abs=1e-4)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_ends_the_trial_and_names_the_response(wrong):
    def answer(variants):
        return VariantScores(torch.where(variants.owner == 4, wrong, 1.0), 0)

    rollouts, model = mixed_rollouts(), RecordingModel(answer)
    for ask in (
        lambda: score_coalitions(model, rollouts, random_plan(unit_index(rollouts), 3)),
        lambda: score_responses(model, rollouts),
    ):
        with pytest.raises(TrialFailed, match=rf"reward model recorder scored response 4 of the batch as {wrong}") as f:
            ask()
        assert f.value.reason == "nan"
    check_finite(torch.zeros(3), torch.arange(3), "fine")


def test_prefixes_of_a_batch_are_every_prefix_of_every_response():
    rollouts = mixed_rollouts()
    prefixes, width = Variants.prefixes(rollouts), rollouts.response_ids.shape[1]
    kept = [[token for token in row if token != NO_TOKEN] for row in prefixes.kept_ids().tolist()]
    for row in range(len(rollouts)):
        response = real_ids(rollouts, row)[1]
        assert kept[row * (width + 1) : (row + 1) * (width + 1)] == [response[:end] for end in range(width + 1)]
    assert prefixes.owner.tolist() == [row for row in range(len(rollouts)) for _ in range(width + 1)]
