"""Masked and hidden units, against plain forward passes of whole rows: ids replaced, or masked from attention."""

from functools import lru_cache

import pytest
import torch

from shaping import METHODS, CausalRewardModel
from shaping.credit.estimator import exact_tokens
from shaping.reward_models.tree_rows import SHARED
from shaping.tree_attention import BLOCK
from shaping.variants import NO_TOKEN, Variants
from tests.support.games import by_subsets
from tests.support.models.absent_units import (
    BY_UNITS,
    MASK,
    OPERATORS,
    classifier_of,
    every_coalition,
    every_operator,
    parts,
    plain,
    reward_model,
    rollouts_of_all_kinds,
)
from tests.support.models.tiny_families import NOT_SHARING, SHARING, forward_shapes
from tests.support.models.tiny_models import (
    BOS,
    EOS,
    SCORE_DEVIATION,
    SCORE_MEAN,
    make_rollouts,
    mixed_rollouts,
    real_ids,
    scored_batch,
    tiny_classifier,
)


@lru_cache(maxsize=64)
def expected_scores(family, absent, eos):
    variants = every_coalition(rollouts_of_all_kinds(), absent)
    return [plain(classifier_of(family), *part, absent, eos) for part in parts(variants)]


@every_operator
@pytest.mark.parametrize("eos", [None, EOS])
@pytest.mark.parametrize("path", ["tree", "small passes", "unshared", "rows"])
@pytest.mark.parametrize("family", SHARING)
def test_every_coalition_scores_like_its_whole_row_masked(family, path, eos, absent):
    options = {"small passes": {"max_tokens_per_forward": 12}, "unshared": {"share_prefixes": False}}.get(path, {})
    model = reward_model(family, eos_token_id=eos, **options)
    if path == "rows":
        for what in ("scores", "scores with hidden units"):
            model._trials.refuse(what, SHARED, "this test wants the next way")
    else:
        assert model.shares_work
    model.score(every_coalition(rollouts_of_all_kinds(), absent))
    with forward_shapes(model.model) as shapes:
        scored = model.score(every_coalition(rollouts_of_all_kinds(), absent))
    assert scored.values.tolist() == pytest.approx(expected_scores(family, absent, eos), abs=1e-4)
    assert float(scored.values.std()) > 0.1
    assert ({rows for rows, _ in shapes} == {1}) == (path != "rows")
    assert scored.forwarded_tokens == sum(rows * width for rows, width in shapes)


@every_operator
@pytest.mark.parametrize("max_tokens", [150, 16_384])
@pytest.mark.parametrize("family", ["Llama", "GPT2"])
def test_rows_longer_than_a_block_of_attention_score_like_whole_rows_masked(family, max_tokens, absent):
    generator = torch.Generator().manual_seed(0)
    prompt, response = (torch.randint(8, 200, (size,), generator=generator).tolist() for size in (BLOCK + 6, BLOCK + 9))
    rollouts = make_rollouts([prompt, prompt[1:]], [response, response[:20]])
    chance = torch.tensor([0.02, 0.1, 0.5, 0.9]).repeat(8)[:, None]
    owner = torch.tensor([0, 1]).repeat_interleave(16)
    dropped = torch.rand(32, len(response), generator=generator) < chance
    variants = Variants(rollouts, owner, rollouts.response_mask[owner] & ~dropped, absent)
    model = reward_model(family, max_tokens_per_forward=max_tokens)
    expected = [plain(classifier_of(family), *part, absent) for part in parts(variants)]
    assert model.score(variants).values.tolist() == pytest.approx(expected, abs=1e-4)
    assert model.shares_work


@every_operator
@pytest.mark.parametrize("family", NOT_SHARING)
def test_models_that_share_nothing_mask_and_hide_row_by_row(family, absent):
    model = reward_model(family, max_tokens_per_forward=40)
    assert ("absent_attention" in model.abilities) == (family != "Bloom")
    if f"absent_{absent}" in model.abilities:
        found = model.score(every_coalition(rollouts_of_all_kinds(), absent)).values
        assert found.tolist() == pytest.approx(expected_scores(family, absent, None), abs=1e-4)
        assert not model.shares_work


@pytest.mark.parametrize("eos", [None, EOS])
@pytest.mark.parametrize("family", ["Llama", "GPT2"])
def test_the_operators_differ_wherever_a_token_is_absent_and_agree_on_whole_responses(family, eos):
    rollouts, model = rollouts_of_all_kinds(), reward_model(family, eos_token_id=eos)
    variants = every_coalition(rollouts, "delete")
    found = {
        absent: model.score(Variants(rollouts, variants.owner, variants.keep, absent)).values
        for absent in ("delete", *OPERATORS)
    }
    whole = (variants.keep == rollouts.response_mask[variants.owner]).all(dim=1)
    assert int(whole.sum()) == len(rollouts)
    for one, other in (("delete", "mask"), ("delete", "attention"), ("mask", "attention")):
        torch.testing.assert_close(found[one][whole], found[other][whole], atol=1e-5, rtol=0)
        assert float((found[one] - found[other]).abs().max()) > 0.3


def test_an_appended_end_of_sequence_stands_behind_the_whole_response():
    rollouts, keep = make_rollouts([[BOS, 9]], [[20, 21, 22, 23]]), torch.tensor([[True, False, False, False]])
    model = reward_model("Llama", eos_token_id=EOS)
    found = [float(model.score(Variants(rollouts, torch.tensor([0]), keep, "attention")).values) for _ in range(2)]
    classifier, ids = classifier_of("Llama"), torch.tensor([[BOS, 9, 20, EOS]])
    with torch.no_grad():
        for place, alike in ((6, True), (3, False)):
            inputs = {"attention_mask": torch.ones_like(ids), "position_ids": torch.tensor([[0, 1, 2, place]])}
            hidden = classifier.base_model(ids, **inputs).last_hidden_state[0, -1]
            expected = (float(classifier.score(hidden)) - SCORE_MEAN) / SCORE_DEVIATION
            assert (found[0] == pytest.approx(expected, abs=1e-4)) == alike
    assert found[0] == found[1]


def test_a_mask_token_that_is_end_of_sequence_does_not_end_the_row():
    rollouts, keep = make_rollouts([[BOS, 9]], [[20, 21]]), torch.tensor([[True, False]])
    model = reward_model("Llama", eos_token_id=EOS, mask_token_id=EOS)
    found = float(model.score(Variants(rollouts, torch.tensor([0]), keep, "mask")).values)
    expected = [
        plain(classifier_of("Llama"), [BOS, 9], row, [True] * len(row), "mask") for row in ([20, EOS, EOS], [20, EOS])
    ]
    assert found == pytest.approx(expected[0], abs=1e-4)
    assert found != pytest.approx(expected[1], abs=1e-2)


@pytest.mark.parametrize("family", ["Llama", "GPT2"])
def test_sharing_forwards_one_token_for_each_distinct_prefix_and_place(family):
    rollouts = rollouts_of_all_kinds()
    prompts = sum(len(prompt) for prompt in {tuple(real_ids(rollouts, row)[0]) for row in range(len(rollouts))})
    for absent in OPERATORS:
        nodes = set()
        for prompt, response, keep in parts(every_coalition(rollouts, absent)):
            places = enumerate(zip(response, keep, strict=True))
            if absent == "mask":
                row = [token if kept else MASK for _, (token, kept) in places]
            else:
                row = [(place, token) for place, (token, kept) in places if kept]
            nodes |= {(tuple(prompt), tuple(row[: end + 1])) for end in range(len(row))}
        assert reward_model(family).score(every_coalition(rollouts, absent)).forwarded_tokens == prompts + len(nodes)


@pytest.mark.parametrize("absent", ["delete", *OPERATORS])
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("ending", [[], [EOS]])
def test_tokens_of_all_coalitions_are_those_that_the_budget_counts(absent, share, ending):
    response = [*range(50, 54), *ending]
    judge = CausalRewardModel(tiny_classifier(), mask_token_id=MASK, share_prefixes=share)
    batch = scored_batch(judge, make_rollouts([[BOS, 9]], [response]), absent=absent)
    forwarded = METHODS["shapley"].credit(batch).forwarded_tokens - 2
    counted = float(exact_tokens(batch, torch.tensor([0])))
    # Of what is hidden, only a model that shares is known not to forward it.
    assert counted == (forwarded + 4 * 8 if absent == "attention" and not share else forwarded)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("method", BY_UNITS)
@every_operator
def test_a_token_budget_bounds_what_a_sample_forwards(absent, method, share):
    judge = CausalRewardModel(tiny_classifier(), mask_token_id=MASK, share_prefixes=share, max_tokens_per_forward=2**20)
    rollouts = make_rollouts([[BOS, 9]], [list(range(50, 66))])
    for seed in range(3):
        batch = scored_batch(judge, rollouts, seed=seed, absent=absent, budget_tokens=700)
        credit = METHODS[method].credit(batch)
        assert 0 < credit.forwarded_tokens - 2 <= 700
        assert credit.coalitions > 16


@pytest.mark.parametrize("unit", ["token", "span"])
@pytest.mark.parametrize("eos", [None, EOS])
@every_operator
def test_shapley_values_are_those_of_the_game_that_the_operator_makes(absent, eos, unit):
    rollouts, model = (
        mixed_rollouts(),
        CausalRewardModel(tiny_classifier(), SCORE_MEAN, SCORE_DEVIATION, eos_token_id=eos, mask_token_id=MASK),
    )
    batch = scored_batch(model, rollouts, unit, absent=absent, max_units=4)
    credit = METHODS["shapley"].credit(batch).values
    for row in range(len(rollouts)):
        (prompt, response), units = real_ids(rollouts, row), batch.unit_index[row].tolist()
        count, values = max(units) + 1, []
        for coalition in range(2**count):
            keep = [unit < 0 or bool(coalition >> unit & 1) for unit in units[: len(response)]]
            values.append(plain(tiny_classifier(), prompt, response, keep, absent, eos))
        expected = by_subsets(torch.tensor(values)).tolist()
        found = [float(credit[row][batch.unit_index[row] == unit].sum()) for unit in range(count)]
        assert found == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("eos", [None, EOS])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_only_coalitions_change_with_the_operator(method, eos):
    def credit(absent):
        model = CausalRewardModel(tiny_classifier(), eos_token_id=eos, mask_token_id=MASK)
        return METHODS[method].credit(scored_batch(model, mixed_rollouts(), absent=absent, gradient_steps=3)).values

    usual = credit("delete")
    for absent in OPERATORS:
        assert torch.equal(credit(absent), usual) == (method not in BY_UNITS)


def test_variants_are_laid_out_as_the_operators_need_them():
    rollouts = make_rollouts([[BOS]] * 2, [[20, 21, 22, EOS], [23, 24]])
    keep = torch.tensor([[False, True, False, True], [False, True, False, False]])
    variants = Variants(rollouts, torch.tensor([0, 1]), keep, "attention")
    assert variants.kept_ids().tolist() == [[21, EOS], [24, NO_TOKEN]]
    assert variants.kept_places().tolist() == [[1, 3], [1, NO_TOKEN]]
    assert variants.all_ids().tolist() == [[20, 21, 22, EOS], [23, 24, NO_TOKEN, NO_TOKEN]]
    assert variants.all_ids(MASK).tolist() == [[MASK, 21, MASK, EOS], [MASK, 24, NO_TOKEN, NO_TOKEN]]
    ended = variants.ending_with(EOS)
    assert (ended.kept_ids().tolist(), ended.kept_places().tolist()) == ([[21, EOS], [24, EOS]], [[1, 3], [1, 2]])
    assert ended.absent == "attention"
