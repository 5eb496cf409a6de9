"""Attention credit against the weights that the library returns for one unpadded row."""

import pytest
import torch

from shaping import METHODS, CausalRewardModel, ConfigError, EncoderRewardModel, Shape, Shaper
from tests.support.models.tiny_families import tiny_family, word_tokenizer
from tests.support.models.tiny_models import (
    EOS,
    SCORE_DEVIATION,
    SCORE_MEAN,
    mixed_rollouts,
    real_ids,
    scored_batch,
    tiny_reward_model,
    tiny_tokenizer,
)

# Every family's eager attention; Bloom's is its own.
FAMILIES = ["Llama", "GPT2", "Qwen3", "GPTNeoX", "Bloom"]
REDUCE = {"mean": lambda weights: weights.mean(dim=0), "max": lambda weights: weights.amax(dim=0)}


@torch.no_grad()
def plain_attention(model, ids, layer, heads, place, read=-1, **inputs):
    """Return the attention of one row from ``read`` to the places of its response, summing to 1."""
    output = model(input_ids=torch.tensor([ids]), output_attentions=True, **inputs)
    weights = REDUCE[heads](output.attentions[layer][0])[read, place]
    return (weights / weights.sum()).tolist(), float(output.logits[0, -1])


@pytest.mark.parametrize("heads", ["mean", "max"])
@pytest.mark.parametrize("layer", [0, 1, -1, -2])
@pytest.mark.parametrize("eos", [None, EOS])
@pytest.mark.parametrize("family", FAMILIES)
def test_causal_attention_is_that_of_the_chosen_layer_and_heads_from_where_the_score_is_read(family, eos, layer, heads):
    rollouts = mixed_rollouts()
    eager = tiny_family(family, attn_implementation="eager")
    model = CausalRewardModel(tiny_family(family), eos_token_id=eos)
    found = model.response_attention(rollouts, layer, heads)
    for row in range(len(rollouts)):
        prompt, response = real_ids(rollouts, row)
        ids = prompt + response
        ids = ids if eos is None or ids[-1] == eos else [*ids, eos]
        assert not found[row, len(response) :].any()
        if response:
            place = slice(len(prompt), len(prompt) + len(response))
            expected, _ = plain_attention(eager, ids, layer, heads, place)
            assert found[row, : len(response)].tolist() == pytest.approx(expected, abs=1e-5)
            assert float(found[row].sum()) == pytest.approx(1, abs=1e-5)


def test_layers_and_reductions_differ():
    model, rollouts = tiny_reward_model(), mixed_rollouts()
    rows = [model.response_attention(rollouts, layer, heads)[3] for layer in (0, 1) for heads in ("mean", "max")]
    for place, one in enumerate(rows):
        for other in rows[place + 1 :]:
            assert float((one - other).abs().max()) > 1e-3


@pytest.mark.parametrize(("layer", "heads"), [(0, "mean"), (-1, "max")])
def test_credit_is_the_score_in_the_shares_that_the_shape_asks_for(layer, heads):
    rollouts, model = mixed_rollouts(), tiny_reward_model()
    batch = scored_batch(model, rollouts, attention_layer=layer, attention_heads=heads)
    credit = METHODS["attention"].credit(batch).values
    eager = tiny_family("Llama", num_key_value_heads=2, max_position_embeddings=64, attn_implementation="eager")
    eager.load_state_dict(model.model.state_dict())
    for row in (1, 3, 4, 6):
        prompt, response = real_ids(rollouts, row)
        place = slice(len(prompt), len(prompt) + len(response))
        shares, raw = plain_attention(eager, prompt + response, layer, heads, place)
        score = (raw - SCORE_MEAN) / SCORE_DEVIATION
        expected = [share * score for share in shares]
        assert credit[row, : len(response)].tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("family", ["DistilBert", "Bert", "Roberta"])
@pytest.mark.parametrize("heads", ["mean", "max"])
@pytest.mark.parametrize("layer", [0, -1])
def test_encoder_attention_is_that_of_the_first_token(family, layer, heads):
    tokenizer, rollouts = word_tokenizer(), mixed_rollouts()
    rollouts.prompt_ids.remainder_(100).add_(10)
    rollouts.response_ids.remainder_(100).add_(10)
    model = EncoderRewardModel(tiny_family(family, len(tokenizer), pad_token_id=0), tokenizer)
    eager = tiny_family(family, len(tokenizer), pad_token_id=0, attn_implementation="eager")
    found = model.response_attention(rollouts, layer, heads)
    for row in range(len(rollouts)):
        prompt, response = real_ids(rollouts, row)
        assert not found[row, len(response) :].any()
        if response:
            ids = [tokenizer.cls_token_id, *prompt, *response, tokenizer.sep_token_id]
            place = slice(1 + len(prompt), 1 + len(prompt) + len(response))
            expected, _ = plain_attention(eager, ids, layer, heads, place, read=0)
            assert found[row, : len(response)].tolist() == pytest.approx(expected, abs=1e-5)
            assert float(found[row].sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("layer", [2, 7, -3])
@pytest.mark.parametrize("model", ["causal", "encoder"])
def test_a_layer_that_does_not_exist_is_refused_by_name_before_anything_is_scored(layer, model):
    encoder = EncoderRewardModel(tiny_family("DistilBert"), word_tokenizer())
    judge = tiny_reward_model() if model == "causal" else encoder
    assert judge.layers == 2
    message = rf"attention_layer = {layer} does not exist in .* of 2 layers\nchoose from 0 to 1, or -1 for the last"
    with pytest.raises(ConfigError, match=message):
        judge.response_attention(mixed_rollouts(), layer)
    shape = Shape(weights={"attention": 1.0}, attention_layer=layer)
    with pytest.raises(ConfigError, match=message):
        Shaper(shape, judge, tiny_tokenizer())
    Shaper(shape.with_changes(weights={"sparse": 1.0}), judge, tiny_tokenizer())


def test_a_model_that_cannot_change_to_attention_that_returns_weights_is_refused_unless_loaded_so():
    model = CausalRewardModel(tiny_family("Falcon"))
    with pytest.raises(ConfigError, match=r"FalconForSequenceClassification cannot change .*\nload it with attn_impl"):
        model.response_attention(mixed_rollouts())
    eager = CausalRewardModel(tiny_family("Falcon", attn_implementation="eager"))
    found = eager.response_attention(mixed_rollouts())
    prompt, response = real_ids(mixed_rollouts(), 3)
    place = slice(len(prompt), len(prompt + response))
    expected, _ = plain_attention(eager.model, prompt + response, -1, "mean", place)
    assert found[3, : len(response)].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("family", ["Llama", "GPT2", "DistilBert"])
def test_the_attention_implementation_is_left_as_it_was_even_after_an_error(family):
    classifier = tiny_family(family)
    judge = (
        EncoderRewardModel(classifier, word_tokenizer()) if family == "DistilBert" else CausalRewardModel(classifier)
    )
    before = classifier.config._attn_implementation
    assert before == "sdpa"
    with pytest.raises(ConfigError):
        judge.response_attention(mixed_rollouts(), 9)
    assert classifier.config._attn_implementation == before
    judge.response_attention(mixed_rollouts())
    assert classifier.config._attn_implementation == before
