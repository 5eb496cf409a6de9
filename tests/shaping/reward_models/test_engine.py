"""Coalitions through the shared prefix tree of real architectures, against plain forward passes of each text."""

from functools import lru_cache

import pytest
import torch

from shaping import CausalRewardModel
from shaping.reward_models.layouts import packs
from shaping.scoring import score_coalitions
from shaping.tree_attention import BLOCK
from shaping.variants import Variants
from tests.support.models.tiny_families import SHARING, forward_shapes, tiny_family
from tests.support.models.tiny_models import BOS, EOS, encode, make_rollouts, real_ids
from tests.support.models.tiny_plans import planned_texts, random_plan, unit_index

MEAN, DEVIATION = 0.3, 0.7


@lru_cache(maxsize=32)
def classifier_of(family):
    return tiny_family(family)


def reward_model(family, **options):
    return CausalRewardModel(classifier_of(family), MEAN, DEVIATION, family, **options)


@torch.no_grad()
def plain(model, ids):
    """Return the library's own score of one text, without padding, as the model's dtype computes it."""
    return (float(model(input_ids=torch.tensor([ids])).logits) - MEAN) / DEVIATION


def shared_prompt_rollouts():
    """Return responses of every kind; the prompts differ in length, and several responses have the same one."""
    short, long = [BOS, *encode("a")], [BOS, *encode("i liked the cast of the film")]
    rows = [
        (short, []),
        (short, encode("good")[:1]),
        (long, [*encode("bad."), EOS]),
        (long, encode("the film was good, the plot was not; why?")),
        (short, encode("the film was good, the plot was not; why?")),
        (long, [EOS]),
        (long, [*encode("a great cast! the end was bad."), EOS]),
        ([BOS], encode("dull film. the cast")),
        (long, encode("the film was bad")),
    ]
    return make_rollouts([prompt for prompt, _ in rows], [response for _, response in rows])


def engine_plan(rollouts):
    return random_plan(unit_index(rollouts), per_response=6)


@lru_cache(maxsize=32)
def expected_values(family, eos):
    """Return the plain score of every coalition of the plan, in order."""
    rollouts = shared_prompt_rollouts()
    texts = planned_texts(rollouts, engine_plan(rollouts), unit_index(rollouts))
    if eos is not None:
        texts = [(prompt, kept if kept[-1:] == [eos] else [*kept, eos]) for prompt, kept in texts]
    return [plain(classifier_of(family), prompt + kept) for prompt, kept in texts]


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("max_tokens", [1, 40, 100, 16_384])
@pytest.mark.parametrize("eos", [None, EOS])
@pytest.mark.parametrize("family", SHARING)
def test_coalitions_score_like_plain_forward_passes_of_each_masked_text(family, eos, max_tokens, share):
    model = reward_model(family, eos_token_id=eos, max_tokens_per_forward=max_tokens, share_prefixes=share)
    rollouts = shared_prompt_rollouts()
    assert model.shares_work
    # The first batch is a trial as well: some of its rows are forwarded alone.
    score_coalitions(model, rollouts, engine_plan(rollouts))
    with forward_shapes(model.model) as shapes:
        scored = score_coalitions(model, rollouts, engine_plan(rollouts))
    found = torch.cat([values.flatten() for values in scored.values])
    assert found.tolist() == pytest.approx(expected_values(family, eos), abs=1e-4)
    assert float(found.std()) > 0.1
    assert {rows for rows, _ in shapes} == {1}
    assert scored.forwarded_tokens == sum(width for _, width in shapes)


@pytest.mark.parametrize("family", SHARING)
def test_sharing_forwards_one_token_for_each_distinct_prefix(family):
    rollouts = shared_prompt_rollouts()
    scored = score_coalitions(reward_model(family), rollouts, engine_plan(rollouts))
    alone = score_coalitions(reward_model(family, share_prefixes=False), rollouts, engine_plan(rollouts))
    texts = {
        (tuple(p), tuple(kept)) for p, kept in planned_texts(rollouts, engine_plan(rollouts), unit_index(rollouts))
    }
    prompts = sum(len(prompt) for prompt in {prompt for prompt, _ in texts})
    prefixes = {(prompt, kept[:end]) for prompt, kept in texts for end in range(1, len(kept) + 1)}
    assert scored.forwarded_tokens == prompts + len(prefixes)
    assert alone.forwarded_tokens == prompts + sum(len(kept) for _, kept in texts)


def test_equal_prompts_of_different_padding_are_forwarded_once():
    response = encode("good film")
    rollouts = make_rollouts([[BOS, 9, 10], [BOS, 9, 10, 11, 12], [BOS, 9, 10]], [response] * 3)
    scored = reward_model("Llama").score(Variants.whole(rollouts))
    assert scored.forwarded_tokens == 3 + 5 + 2 * len(response)
    assert float(scored.values[0]) == float(scored.values[2])


def long_rollouts(prompt_tokens, response_tokens):
    generator = torch.Generator().manual_seed(prompt_tokens * 1000 + response_tokens)
    prompt = torch.randint(3, 200, (prompt_tokens,), generator=generator).tolist()
    response = torch.randint(3, 200, (response_tokens,), generator=generator).tolist()
    return make_rollouts([prompt, prompt[1:] or prompt], [response, response[: response_tokens // 2 + 1]])


def some_variants(rollouts, each, seed=0):
    """Return variants that drop few tokens, so that shared paths are long, and variants that drop many."""
    generator = torch.Generator().manual_seed(seed)
    owner = torch.arange(len(rollouts)).repeat_interleave(each)
    chance = torch.tensor([0.02, 0.1, 0.5, 0.9])[torch.arange(len(owner)) % 4]
    dropped = torch.rand(len(owner), rollouts.response_ids.shape[1], generator=generator) < chance[:, None]
    return Variants(rollouts, owner, rollouts.response_mask[owner] & ~dropped)


def assert_scores_like_plain(model, variants, tolerance=1e-4):
    found = model.score(variants).values
    for number, (owner, keep) in enumerate(zip(variants.owner.tolist(), variants.keep, strict=True)):
        prompt, _ = real_ids(variants.rollouts, owner)
        kept = variants.rollouts.response_ids[owner][keep].tolist()
        assert float(found[number]) == pytest.approx(plain(model.model, prompt + kept), abs=tolerance)


@pytest.mark.parametrize("prompt_tokens", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])
@pytest.mark.parametrize("response_tokens", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])
def test_rows_and_prompts_at_the_borders_of_blocks_score_like_plain(prompt_tokens, response_tokens):
    variants = some_variants(long_rollouts(prompt_tokens, response_tokens), each=6)
    assert_scores_like_plain(reward_model("Llama"), variants)


@pytest.mark.parametrize("max_tokens", [16_384, 400])
@pytest.mark.parametrize("family", ["GPT2", "GPTNeoX", "Qwen3"])
def test_many_rows_whose_paths_cross_blocks_score_like_plain(family, max_tokens):
    variants = some_variants(long_rollouts(70, 90), each=24, seed=1)
    model = reward_model(family, max_tokens_per_forward=max_tokens)
    assert_scores_like_plain(model, variants)
    assert model.shares_work


@pytest.mark.parametrize("family", ["Llama", "GPT2", "GPTNeoX"])
def test_in_bfloat16_the_tree_is_no_further_from_the_truth_than_a_plain_forward_pass(family):
    half = tiny_family(family).bfloat16()
    exact = tiny_family(family).bfloat16().float()
    model = CausalRewardModel(half, MEAN, DEVIATION, family)
    variants = some_variants(long_rollouts(30, 40), each=24)
    rows = [
        real_ids(variants.rollouts, owner)[0] + variants.rollouts.response_ids[owner][keep].tolist()
        for owner, keep in zip(variants.owner.tolist(), variants.keep, strict=True)
    ]
    found = model.score(variants).values
    truth, rounded = (torch.tensor([plain(each, row) for row in rows]) for each in (exact, half))
    assert model.shares_work
    assert found.dtype == torch.float32
    assert bool(torch.isfinite(found).all())
    spread = float(truth.std())
    noise = float((rounded - truth).square().mean().sqrt())
    assert 0 < noise < 0.2 * spread
    assert float((found - truth).square().mean().sqrt()) < 1.5 * noise


BOUNDED_CALLS = {
    "score": lambda model, rollouts: model.score(some_variants(rollouts, each=5)),
    "prefix_scores": lambda model, rollouts: model.prefix_scores(rollouts),
    "response_attention": lambda model, rollouts: model.response_attention(rollouts),
    "integrated_gradients": lambda model, rollouts: model.integrated_gradients(rollouts, rollouts.response_mask, 3),
}


@pytest.mark.parametrize("call", BOUNDED_CALLS)
@pytest.mark.parametrize("max_tokens", [1, 40, 100, 4096])
@pytest.mark.parametrize("family", ["Llama", "Bloom"])
def test_no_forward_pass_is_larger_than_its_bound_unless_it_is_one_row(family, max_tokens, call):
    rollouts, eos = shared_prompt_rollouts(), None if call == "prefix_scores" else EOS
    model = reward_model(family, max_tokens_per_forward=max_tokens, eos_token_id=eos)
    assert model.shares_work == (family == "Llama")
    with forward_shapes(model.model) as shapes:
        BOUNDED_CALLS[call](model, rollouts)
    longest = rollouts.prompt_ids.shape[1] + rollouts.response_ids.shape[1] + 1
    assert shapes
    for rows, width in shapes:
        assert rows * width <= max_tokens or (rows == 1 and width <= longest)


@pytest.mark.parametrize("call", ["prefix_scores", "response_attention", "integrated_gradients"])
@pytest.mark.parametrize("family", ["Llama", "GPT2"])
def test_the_bound_changes_no_result(family, call):
    rollouts = shared_prompt_rollouts()
    whole, part = (
        BOUNDED_CALLS[call](reward_model(family, max_tokens_per_forward=most), rollouts) for most in (16_384, 60)
    )
    torch.testing.assert_close(part, whole, atol=1e-5, rtol=1e-4)
    assert float(whole.std()) > 1e-3


def test_rows_are_packed_longest_first_and_each_once():
    lengths = torch.tensor([3, 9, 1, 9, 4, 20])
    packed = [(rows.tolist(), width) for rows, width in packs(lengths, 18)]
    assert packed == [([5], 20), ([1, 3], 9), ([4, 0, 2], 4)]


def test_scoring_leaves_inputs_weights_and_attention_as_they_were():
    rollouts, model = shared_prompt_rollouts(), reward_model("Llama")
    before = [tensor.clone() for tensor in (rollouts.prompt_ids, rollouts.response_ids, rollouts.response_mask)]
    identity = model.identity()
    model.score(Variants.whole(rollouts))
    after = (rollouts.prompt_ids, rollouts.response_ids, rollouts.response_mask)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert model.identity() == identity
    assert model.model.config._attn_implementation == "sdpa"
