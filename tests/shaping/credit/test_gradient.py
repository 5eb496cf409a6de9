"""Integrated gradients against captum's, against plain forward passes at both ends, and along a line."""

from contextlib import nullcontext

import pytest
import torch
from captum.attr import LayerIntegratedGradients
from torch import nn

from shaping import METHODS, CausalRewardModel, EncoderRewardModel, Shape, Shaper
from shaping.gradients import _gauss_legendre, integrated_gradients
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

FAMILIES = ["Llama", "GPT2", "GPTNeoX"]
STEPS = 8


def with_mean_token(model):
    """Append a token whose embedding is the mean of the table (which leaves the mean as it was); return its id."""
    table = model.get_input_embeddings().weight.detach()
    wider = nn.Embedding.from_pretrained(torch.cat([table, table.mean(dim=0, keepdim=True)]))
    model.set_input_embeddings(wider)
    return len(table)


def captum_values(model, mean_token, ids, replaced, steps):
    """Return captum's attribution of each token of one row; its path leads from the mean token."""

    def score(row):
        return model(input_ids=row).logits.squeeze(-1) / SCORE_DEVIATION

    layer = LayerIntegratedGradients(score, model.get_input_embeddings())
    row = torch.tensor([ids])
    baseline = torch.where(torch.tensor([replaced]), mean_token, row)
    options = {"n_steps": steps, "method": "gausslegendre", "internal_batch_size": 1}
    found = layer.attribute(row, baselines=baseline, **options)
    return found.sum(dim=2)[0].tolist()


@pytest.mark.parametrize("eos", [None, EOS])
@pytest.mark.parametrize("family", FAMILIES)
def test_causal_gradients_equal_captum_one_unpadded_row_at_a_time(family, eos):
    rollouts, classifier = mixed_rollouts(), tiny_family(family)
    mean_token = with_mean_token(classifier)
    model = CausalRewardModel(classifier, SCORE_MEAN, SCORE_DEVIATION, eos_token_id=eos)
    absent = rollouts.response_mask & (rollouts.response_ids != EOS)
    found = model.integrated_gradients(rollouts, absent, STEPS)
    for row in range(len(rollouts)):
        prompt, response = real_ids(rollouts, row)
        ids = prompt + response
        ids = ids if eos is None or ids[-1] == eos else [*ids, eos]
        replaced = [False] * len(prompt) + absent[row, : len(response)].tolist()
        replaced += [False] * (len(ids) - len(replaced))
        expected = captum_values(classifier, mean_token, ids, replaced, STEPS)[len(prompt) : len(prompt + response)]
        assert found[row, : len(response)].tolist() == pytest.approx(expected, abs=1e-4)
        assert not found[row, len(response) :].any()
    assert float(found.abs().max()) > 0.1


@pytest.mark.parametrize("pair", [False, True])
def test_encoder_gradients_equal_captum_one_unpadded_row_at_a_time(pair):
    tokenizer, encoder = word_tokenizer(), tiny_family("Bert", len(word_tokenizer()))
    mean_token = with_mean_token(encoder)
    model = EncoderRewardModel(encoder, tokenizer, 0, pair, SCORE_MEAN, SCORE_DEVIATION)
    rollouts = mixed_rollouts()
    rollouts.prompt_ids.remainder_(len(tokenizer))
    rollouts.response_ids.remainder_(len(tokenizer))
    found = model.integrated_gradients(rollouts, rollouts.response_mask, STEPS)
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    for row in range(len(rollouts)):
        prompt, response = real_ids(rollouts, row)
        before = [first, *prompt, *([last] if pair else [])]
        ids, kinds = [*before, *response, last], [0] * len(before) + [int(pair)] * (len(response) + 1)

        def score(given, kinds=kinds):
            logits = encoder(input_ids=given, token_type_ids=torch.tensor([kinds]).expand(len(given), -1)).logits
            return logits[:, 0] / SCORE_DEVIATION

        place = slice(len(before), len(before) + len(response))
        baseline = torch.tensor([ids])
        baseline[:, place] = mean_token
        layer = LayerIntegratedGradients(score, encoder.get_input_embeddings())
        expected = layer.attribute(torch.tensor([ids]), baseline, n_steps=STEPS, method="gausslegendre").sum(dim=2)[0]
        assert found[row, : len(response)].tolist() == pytest.approx(expected[place].tolist(), abs=1e-4)
        assert not found[row, len(response) :].any()
    assert float(found.abs().max()) > 0.1


@torch.no_grad()
def gain(classifier, prompt, response, replaced):
    """Return what the score changes from mean embeddings, in place of ``replaced``, to the response itself."""
    own = classifier.get_input_embeddings()(torch.tensor([prompt + response]))
    start = own.clone()
    places = torch.tensor([False] * len(prompt) + replaced)
    start[0, places] = classifier.get_input_embeddings().weight.mean(dim=0)
    ends = [float(classifier(inputs_embeds=each).logits) for each in (own, start)]
    return (ends[0] - ends[1]) / SCORE_DEVIATION


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_sums_to_the_change_of_the_score_as_the_steps_grow(family):
    rollouts, classifier = mixed_rollouts(), tiny_family(family)
    model = CausalRewardModel(classifier, SCORE_MEAN, SCORE_DEVIATION)
    absent = rollouts.response_mask & (rollouts.response_ids != EOS)
    pairs = [real_ids(rollouts, row) for row in range(len(rollouts))]
    expected = torch.tensor(
        [
            gain(classifier, prompt, response, absent[row, : len(response)].tolist())
            for row, (prompt, response) in enumerate(pairs)
        ]
    )
    errors = [
        float((model.integrated_gradients(rollouts, absent, steps).sum(dim=1) - expected).abs().max())
        for steps in (4, 32, 256)
    ]
    assert float(expected.abs().max()) > 1
    assert errors[0] > 0.1 > 0.003 > errors[2]
    assert errors[1] < errors[0]


def test_the_mean_embedding_is_scaled_as_the_model_scales_what_it_looks_up():
    rollouts, classifier = mixed_rollouts(), tiny_family("Gemma3Text")
    model = CausalRewardModel(classifier, SCORE_MEAN, SCORE_DEVIATION)
    with torch.no_grad():
        everything = classifier.get_input_embeddings()(torch.arange(classifier.config.vocab_size))
        prompt, response = real_ids(rollouts, 3)
        own = classifier.get_input_embeddings()(torch.tensor([prompt + response]))
        start = own.clone()
        start[0, len(prompt) :] = everything.mean(dim=0)
        ends = [float(classifier(inputs_embeds=each).logits) for each in (own, start)]
    found = model.integrated_gradients(rollouts, rollouts.response_mask, 256)[3].sum()
    assert float(found) == pytest.approx((ends[0] - ends[1]) / SCORE_DEVIATION, abs=0.02)


def test_prompt_and_end_of_sequence_are_no_part_of_the_path():
    rollouts, model = mixed_rollouts(), tiny_reward_model()
    nothing = torch.zeros_like(rollouts.response_mask)
    assert not model.integrated_gradients(rollouts, nothing, STEPS).any()
    credit = METHODS["gradient"].credit(scored_batch(model, rollouts)).values
    assert not credit[rollouts.response_ids == EOS].any()
    assert not credit[~rollouts.response_mask].any()
    attributed = rollouts.response_mask & (rollouts.response_ids != EOS)
    own = model.integrated_gradients(rollouts, attributed, Shape().gradient_steps)
    torch.testing.assert_close(credit, own)
    assert float(credit[3].abs().max()) > 0.05


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_gradients_are_found_inside_modes_that_forbid_them(mode):
    causal, encoder = tiny_reward_model(), EncoderRewardModel(tiny_family("DistilBert"), word_tokenizer())
    shaper = Shaper(Shape(weights={"gradient": 1.0}), causal, tiny_tokenizer())
    models, outside = (causal, encoder), mixed_rollouts()
    expected = [model.integrated_gradients(outside, outside.response_mask, STEPS) for model in models]
    rewards = shaper(outside)
    with mode():
        # Made inside: a trainer's rollouts may be tensors of inference mode.
        rollouts = mixed_rollouts()
        found = [model.integrated_gradients(rollouts, rollouts.response_mask, STEPS) for model in models]
        again = shaper(rollouts)
    for one, other in zip([*found, again], [*expected, rewards], strict=True):
        torch.testing.assert_close(one, other)
        assert float(one.abs().max()) > 1e-3
        assert not one.requires_grad


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, nullcontext])
def test_no_gradient_is_left_on_the_reward_model(mode):
    model = tiny_reward_model()
    with mode():
        model.integrated_gradients(mixed_rollouts(), mixed_rollouts().response_mask, 2)
    assert all(parameter.grad is None for parameter in model.model.parameters())


def test_quadrature_is_exact_for_polynomials_of_twice_its_points():
    for count in (1, 2, 3, 8, 16):
        points, weights = _gauss_legendre(count)
        for degree in range(2 * count):
            value = sum(weight * point**degree for point, weight in zip(points, weights, strict=True))
            assert value == pytest.approx(1 / (degree + 1), abs=1e-12)


def test_a_linear_score_gives_each_token_its_own_term_with_one_step():
    torch.manual_seed(0)
    embedding, direction = nn.Embedding(7, 4), torch.randn(5, 4)
    ids, replaced = torch.tensor([[1, 4, 6, 2, 2]]), torch.tensor([[False, True, True, True, False]])
    found = integrated_gradients(embedding, lambda given: (given * direction).sum(dim=(1, 2)), ids, replaced, 1)
    table = embedding.weight.detach()
    expected = ((table[ids[0]] - table.mean(dim=0)) * direction).sum(dim=1) * replaced[0]
    torch.testing.assert_close(found[0], expected)
    with torch.inference_mode():
        again = integrated_gradients(embedding, lambda given: (given * direction).sum(dim=(1, 2)), ids, replaced, 1)
    torch.testing.assert_close(again, found)
