"""Input that no trainer means to send: a defined result, or an error that names field, value and remedy."""

import math

import pytest
import torch

from shaping import (
    METHODS,
    CausalRewardModel,
    Certificate,
    EncoderRewardModel,
    RetokenizedRewardModel,
    Rollouts,
    Shape,
    ShapeError,
    Shaper,
    TextRewardModel,
    TrialFailed,
)
from shaping.variants import Variants
from tests.support.models.tiny_families import byte_tokenizer, tiny_family, word_tokenizer
from tests.support.models.tiny_models import (
    BOS,
    EOS,
    SCORE_DEVIATION,
    SCORE_MEAN,
    encode,
    make_rollouts,
    mixed_rollouts,
    plain_score,
    real_ids,
    scored_batch,
    tiny_classifier,
    tiny_tokenizer,
)

every_method = pytest.mark.parametrize("method", sorted(METHODS))
NEEDS_NOTHING = sorted(name for name, method in METHODS.items() if not method.needs)


def causal(classifier=None, **options):
    return CausalRewardModel(classifier or tiny_classifier(), SCORE_MEAN, SCORE_DEVIATION, "judge", **options)


def encoder(classifier=None):
    return EncoderRewardModel(classifier or tiny_family("DistilBert"), word_tokenizer(), name="judge")


def retokenized():
    inner = CausalRewardModel(tiny_family("Llama", len(byte_tokenizer())), SCORE_MEAN, SCORE_DEVIATION, "judge")
    return RetokenizedRewardModel(inner, byte_tokenizer(330, True), tiny_tokenizer())


def letters(texts):
    return [0.5 + text.count("o") - 0.3 * len(text) for text in texts]


MODELS = {
    "causal": causal,
    "at end": lambda: causal(eos_token_id=EOS),
    "encoder": encoder,
    "retokenized": retokenized,
    "text": lambda: TextRewardModel(letters, tiny_tokenizer(), name="judge"),
}
SERVED = [
    (model, method) for model in MODELS for method in sorted(METHODS) if not METHODS[method].needs or model != "text"
]
every_served = pytest.mark.parametrize(("model", "method"), SERVED)


def shaped(method, model, rollouts, **options):
    options = {"unit": "token", "budget": 24, "max_units": 6, "gradient_steps": 3, **options}
    return Shaper(Shape(weights={method: 1.0}, **options), model, tiny_tokenizer()).shaped(rollouts)


def assert_sums_to_scores(found, rollouts):
    assert bool(torch.isfinite(found.token_rewards).all())
    assert bool(torch.isfinite(found.scores).all())
    expected = torch.where(rollouts.response_tokens > 0, found.scores, 0)
    torch.testing.assert_close(found.token_rewards.sum(dim=1), expected, atol=1e-4, rtol=0)
    assert not found.token_rewards[~rollouts.response_mask].any()


@every_served
def test_a_batch_of_nothing_but_padding_earns_nothing_and_is_scored_by_its_prompts(model, method):
    rollouts = make_rollouts([[BOS, *encode("a")], [BOS, *encode("the film")]], [[], []], width=3)
    found = shaped(method, MODELS[model](), rollouts)
    assert not found.token_rewards.any()
    assert bool(torch.isfinite(found.scores).all())
    assert float(found.scores[0]) != float(found.scores[1])
    credit = found.credits[method]
    assert credit.coalitions == 0 or method == "prefix"
    certificate = Certificate.empty(Shape(weights={method: 1.0})).including(found.token_rewards, found.scores, rollouts)
    assert certificate.responses == 0


# The draws of random follow the batch.
@pytest.mark.parametrize(("model", "method"), [pair for pair in SERVED if pair[1] != "random"])
def test_an_empty_response_among_others_changes_nothing_for_them(model, method):
    judge, prompt = MODELS[model](), [BOS, *encode("the film")]
    full = [encode("was good, the end"), encode("bad")]
    alone = shaped(method, judge, make_rollouts([prompt] * 2, full), budget=256)
    with_empty = shaped(method, judge, make_rollouts([prompt] * 3, [full[0], [], full[1]]), budget=256)
    assert not with_empty.token_rewards[1].any()
    torch.testing.assert_close(with_empty.token_rewards[[0, 2]], alone.token_rewards, atol=1e-4, rtol=0)


@every_served
@pytest.mark.parametrize("response", [encode("good")[:1], [*encode("good")[:1], EOS], [EOS]])
def test_a_response_of_one_unit_or_of_none_keeps_its_score(model, method, response):
    rollouts = make_rollouts([[BOS, *encode("the film")]], [response])
    found = shaped(method, MODELS[model](), rollouts)
    assert_sums_to_scores(found, rollouts)
    if METHODS[method].by_units and len(response) == 2:
        # All that the unit changes is its own; the rest is the score without it, which closure puts at the end.
        keep = torch.tensor([[False, True]])
        without = float(MODELS[model]().score(Variants(rollouts, torch.tensor([0]), keep)).values)
        gain = float(found.scores[0]) - without
        assert found.token_rewards[0].tolist() == pytest.approx([gain, without], abs=1e-4)


@every_served
@pytest.mark.parametrize("budget", [1, 2, 3])
def test_a_budget_too_small_for_the_units_still_gives_rewards_that_sum(model, method, budget):
    rollouts = mixed_rollouts()
    found = shaped(method, MODELS[model](), rollouts, budget=budget, max_units=14)
    assert_sums_to_scores(found, rollouts)


def test_a_small_budget_is_said_with_what_would_do(caplog):
    rollouts = make_rollouts([[BOS]], [encode("the film was good, the plot")])
    units = len(encode("the film was good, the plot"))
    # A budget that no other test has: each case is said once.
    shaped("shapley", causal(), rollouts, budget=13, max_units=64)
    (line,) = [each.getMessage() for each in caplog.records if each.name.startswith("shaping.credit")]
    assert f"a budget of 13 coalitions is small for {units} units" in line
    assert f"give at least {2 * units}" in line


class Spoiled:
    """A reward model whose scores of one response are spoiled, all of them or those of its parts."""

    name, layers = "judge", 2

    def __init__(self, wrong, parts_only):
        self.inner, self.wrong, self.parts_only = causal(), wrong, parts_only
        self.abilities, self.added_tokens = frozenset({"attention", "gradient"}), 0

    def score(self, variants):
        found = self.inner.score(variants)
        parts = (variants.keep != variants.rollouts.response_mask[variants.owner]).any(dim=1)
        spoiled = (variants.owner == 3) & (parts if self.parts_only else True)
        return type(found)(torch.where(spoiled, self.wrong, found.values), found.forwarded_tokens)

    def response_attention(self, rollouts, layer=-1, heads="mean"):
        return self.inner.response_attention(rollouts, layer, heads)

    def integrated_gradients(self, rollouts, absent, steps):
        return self.inner.integrated_gradients(rollouts, absent, steps) + (self.wrong if self.parts_only else 0)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@every_method
def test_a_score_that_is_not_finite_ends_the_trial_and_names_the_response(method, wrong):
    message = rf"^nan: reward model judge scored response 3 of the batch as {wrong}\nlook at that response"
    with pytest.raises(TrialFailed, match=message) as failure:
        shaped(method, Spoiled(wrong, parts_only=False), mixed_rollouts())
    assert failure.value.reason == "nan"


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize(
    "method", ["prefix", "gradient", *sorted(name for name, method in METHODS.items() if method.by_units)]
)
def test_a_part_that_is_not_finite_ends_the_trial_too(method, wrong):
    with pytest.raises(TrialFailed, match=r"reward model judge scored response \d of the batch as") as failure:
        shaped(method, Spoiled(wrong, parts_only=True), mixed_rollouts())
    assert failure.value.reason == "nan"


@pytest.mark.parametrize("family", ["Llama", "DistilBert"])
@every_method
def test_weights_that_are_not_finite_end_the_trial(method, family):
    classifier, rollouts = tiny_family(family), mixed_rollouts()
    *others, last = ({*real_ids(rollouts, row)[0], *real_ids(rollouts, row)[1]} for row in range(len(rollouts)))
    with torch.no_grad():
        classifier.get_input_embeddings().weight[min(last.difference(*others))] = math.nan
    model = encoder(classifier) if family == "DistilBert" else causal(classifier)
    with pytest.raises(TrialFailed, match="scored response 6 of the batch as nan"):
        shaped(method, model, rollouts)


@pytest.mark.parametrize(("model", "method"), [pair for pair in SERVED if pair[0] in ("causal", "at end", "encoder")])
def test_a_sequence_beyond_the_context_is_refused_with_both_lengths_and_a_remedy(model, method):
    context = 40
    special = {"causal": 0, "at end": 1, "encoder": 2}[model]
    classifier = tiny_family("DistilBert" if model == "encoder" else "Llama", max_position_embeddings=context)
    options = {"eos_token_id": EOS} if model == "at end" else {}
    judge = encoder(classifier) if model == "encoder" else causal(classifier, **options)
    prompt = [BOS, *[20] * 9]
    fits = make_rollouts([prompt], [[21] * (context - 10 - special)])
    assert_sums_to_scores(shaped(method, judge, fits), fits)
    message = (
        rf"^prompt and response have {context + 1} tokens, but reward model judge has a context of {context}\n"
        "shorten the prompts or the responses"
    )
    with pytest.raises(ShapeError, match=message):
        shaped(method, judge, make_rollouts([prompt, [BOS]], [[21] * (context - 9 - special), [22]]))


def without_prompt(response, width):
    """Return a response whose prompt is empty, or padding alone."""
    prompt, real = torch.full((1, width), 77), torch.zeros(1, width, dtype=torch.bool)
    return Rollouts(prompt, real, torch.tensor([response]), torch.ones(1, len(response), dtype=torch.bool))


@every_method
@pytest.mark.parametrize("width", [0, 2])
def test_an_empty_prompt_is_refused_where_nothing_would_be_left_to_read(method, width):
    with pytest.raises(ShapeError, match=r"(?s)a response without prompt .*put a beginning-of-sequence token before"):
        shaped(method, causal(), without_prompt(encode("good film"), width))


@pytest.mark.parametrize("width", [0, 2])
@pytest.mark.parametrize(("model", "method"), [pair for pair in SERVED if pair[0] in ("at end", "encoder", "text")])
def test_an_empty_prompt_is_fine_where_something_is_always_left(model, method, width):
    response = encode("good film")
    rollouts = without_prompt(response, width)
    found = shaped(method, MODELS[model](), rollouts)
    assert_sums_to_scores(found, rollouts)
    if model == "at end":
        assert float(found.scores[0]) == pytest.approx(plain_score(tiny_classifier(), [*response, EOS]), abs=1e-4)


def test_rollouts_without_a_response_position_are_refused():
    ids, mask = torch.ones(2, 3, dtype=torch.long), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ShapeError, match=r"response_ids has no position\npad empty responses to one position"):
        Rollouts(ids, mask, ids[:, :0], mask[:, :0])


@pytest.mark.parametrize("method", ["prefix", "attention", "gradient", "shapley"])
def test_token_beyond_the_reward_models_vocabulary_is_named_with_its_remedy(method):
    rollouts = make_rollouts([[BOS, 9]], [[8, 100_000]])
    for eos in (None, EOS):
        reward_model = CausalRewardModel(tiny_classifier(), eos_token_id=eos)
        with pytest.raises(ShapeError, match=r"(?s)token id 100000 is beyond .*RetokenizedRewardModel"):
            scored = scored_batch(reward_model, rollouts)
            METHODS[method].credit(scored)
