"""Encoder reward models against the tokenizer's own framing of each masked text and a plain forward pass."""

from functools import lru_cache

import pytest
import torch

from shaping import METHODS, ConfigError, EncoderRewardModel, Rollouts, ShapeError
from shaping.scoring import score_coalitions
from shaping.variants import Variants
from tests.support.models.tiny_families import forward_shapes, roberta_tokenizer, tiny_family, word_tokenizer
from tests.support.models.tiny_models import make_rollouts, real_ids, scored_batch
from tests.support.models.tiny_plans import random_plan

MEAN, DEVIATION = 0.2, 1.3
PROMPTS = ["the film", "i liked the cast of the film", "a", "the film"]
RESPONSES = ["was good, the plot was not; why?", "the end was bad.", "", "a great cast!"]
# A family with its tokenizer, and whether prompt and response are one text or two.
CASES = [("DistilBert", False), ("Bert", False), ("Bert", True), ("Roberta", False), ("Roberta", True)]
every_case = pytest.mark.parametrize(("family", "pair"), CASES)


def tokenizer_of(family):
    return roberta_tokenizer() if family in ("Roberta", "Camembert") else word_tokenizer()


@lru_cache(maxsize=16)
def classifier_of(family, labels=1):
    tokenizer = tokenizer_of(family)
    return tiny_family(family, len(tokenizer), pad_token_id=tokenizer.pad_token_id, num_labels=labels)


def reward_model(family, pair=False, **options):
    return EncoderRewardModel(
        classifier_of(family), tokenizer_of(family), pair=pair, mean=MEAN, deviation=DEVIATION, name=family, **options
    )


def words_of(text):
    """Return words, marks their own: deleting one leaves a text that is tokenized as what is left."""
    return text.replace(",", " ,").replace(";", " ;").replace("?", " ?").replace(".", " .").replace("!", " !").split()


def word_rollouts(family):
    """Return rollouts in the encoder's own tokens, and the word of every response token."""
    tokenizer = tokenizer_of(family)
    encoded = [[tokenizer(word, add_special_tokens=False)["input_ids"] for word in words_of(r)] for r in RESPONSES]
    prompts = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in PROMPTS]
    rollouts = make_rollouts(prompts, [[token for word in words for token in word] for words in encoded], pad=5)
    width = rollouts.response_ids.shape[1]
    index = [[number for number, word in enumerate(words) for _ in word] for words in encoded]
    return rollouts, torch.tensor([row + [-1] * (width - len(row)) for row in index])


@torch.no_grad()
def plain(family, prompt, response, pair, label=0, labels=1):
    """Return the score of a text as anybody would compute it with the tokenizer and the model."""
    tokenizer = tokenizer_of(family)
    # As a batch of one: given alone, an empty second text counts as none, and is framed as if there were no pair.
    inputs = tokenizer([prompt], [response]) if pair else tokenizer([f"{prompt} {response}".strip()])
    given = {name: torch.tensor(value) for name, value in inputs.items()}
    if family == "DistilBert":
        given.pop("token_type_ids")
    return (float(classifier_of(family, labels)(**given).logits[0, label]) - MEAN) / DEVIATION


@every_case
@pytest.mark.parametrize("max_tokens", [1, 40, 4096])
def test_coalitions_score_like_the_tokenized_text_of_what_they_keep(family, pair, max_tokens):
    rollouts, index = word_rollouts(family)
    model, plan = reward_model(family, pair, max_tokens_per_forward=max_tokens), random_plan(index, per_response=8)
    # The first batch is a trial as well: some of its rows are forwarded alone.
    score_coalitions(model, rollouts, plan)
    with forward_shapes(model.model) as shapes:
        scored = score_coalitions(model, rollouts, plan)
    for group, values in zip(plan, scored.values, strict=True):
        for place, row in enumerate(group.rows.tolist()):
            words = words_of(RESPONSES[row])
            for members, value in zip(group.members[place].tolist(), values[place].tolist(), strict=True):
                kept = " ".join(word for word, there in zip(words, members, strict=True) if there)
                assert value == pytest.approx(plain(family, PROMPTS[row], kept, pair), abs=1e-4)
    assert float(torch.cat([values.flatten() for values in scored.values]).std()) > 0.05
    assert scored.forwarded_tokens == sum(rows * width for rows, width in shapes)
    assert all(rows * width <= max_tokens or rows == 1 for rows, width in shapes)


@every_case
def test_prefix_scores_are_scores_of_growing_texts(family, pair):
    rollouts, index = word_rollouts(family)
    found = reward_model(family, pair).prefix_scores(rollouts)
    for row in range(len(rollouts)):
        words, units = words_of(RESPONSES[row]), index[row].tolist()
        for end in range(len(words) + 1):
            tokens = sum(0 <= unit < end for unit in units)
            expected = plain(family, PROMPTS[row], " ".join(words[:end]), pair)
            assert float(found[row, tokens]) == pytest.approx(expected, abs=1e-4)
        after = sum(unit >= 0 for unit in units)
        # The same text in another batch may differ in the last bit.
        assert found[row, after:].tolist() == pytest.approx(
            [float(found[row, after])] * (found.shape[1] - after), abs=1e-5
        )


@every_case
def test_prefix_credit_telescopes_and_is_counted(family, pair):
    rollouts, _ = word_rollouts(family)
    model = reward_model(family, pair)
    batch = scored_batch(model, rollouts, tokenizer=tokenizer_of(family))
    credit = METHODS["prefix"].credit(batch)
    for row in range(len(rollouts)):
        prompt, whole = PROMPTS[row], " ".join(words_of(RESPONSES[row]))
        gain = plain(family, prompt, whole, pair) - plain(family, prompt, "", pair)
        assert float(credit.values[row].sum()) == pytest.approx(gain, abs=1e-4)
    assert credit.forwarded_tokens > 0


@every_case
def test_ids_on_padding_and_other_responses_change_nothing(family, pair):
    rollouts, _ = word_rollouts(family)
    other, _ = word_rollouts(family)
    other.prompt_ids[~other.prompt_mask] = 7
    other.response_ids[~other.response_mask] = 8
    model = reward_model(family, pair)
    calls = [
        lambda given: model.score(Variants.whole(given)).values,
        lambda given: model.response_attention(given),
        lambda given: model.integrated_gradients(given, given.response_mask, 4),
    ]
    for call in calls:
        whole = call(rollouts)
        torch.testing.assert_close(call(other), whole, atol=1e-5, rtol=0)
        for row in range(len(rollouts)):
            alone = call(rollouts.select(torch.tensor([row])))
            torch.testing.assert_close(alone[0], whole[row], atol=1e-4, rtol=0)


@pytest.mark.parametrize("call", ["response_attention", "integrated_gradients"])
@pytest.mark.parametrize("max_tokens", [1, 60])
def test_attention_and_gradients_keep_to_the_bound_and_are_the_same(call, max_tokens):
    rollouts, _ = word_rollouts("Bert")

    def ask(model):
        if call == "response_attention":
            return model.response_attention(rollouts)
        return model.integrated_gradients(rollouts, rollouts.response_mask, 3)

    bounded = reward_model("Bert", True, max_tokens_per_forward=max_tokens)
    with forward_shapes(bounded.model) as shapes:
        found = ask(bounded)
    assert shapes
    assert all(rows * width <= max_tokens or rows == 1 for rows, width in shapes)
    torch.testing.assert_close(found, ask(reward_model("Bert", True)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("label", [0, 1, 2])
def test_the_chosen_label_is_the_score(label):
    rollouts, _ = word_rollouts("DistilBert")
    model = EncoderRewardModel(classifier_of("DistilBert", 3), word_tokenizer(), label, False, MEAN, DEVIATION)
    found = model.score(Variants.whole(rollouts)).values.tolist()
    texts = [" ".join(words_of(response)) for response in RESPONSES]
    expected = [plain("DistilBert", p, text, False, label, 3) for p, text in zip(PROMPTS, texts, strict=True)]
    assert found == pytest.approx(expected, abs=1e-4)


def test_several_labels_without_a_choice_are_refused():
    with pytest.raises(ConfigError, match=r"reward model judge has 3 labels: .*\nsay with label which"):
        EncoderRewardModel(classifier_of("DistilBert", 3), word_tokenizer(), name="judge")


@pytest.mark.parametrize("label", [3, -1])
def test_a_label_that_does_not_exist_is_refused(label):
    with pytest.raises(ConfigError, match=rf"label = {label} does not exist\nreward model judge has labels 0 to 2"):
        EncoderRewardModel(classifier_of("DistilBert", 3), word_tokenizer(), label, name="judge")


def test_a_bound_below_one_is_refused():
    with pytest.raises(ConfigError, match="max_tokens_per_forward = 0"):
        reward_model("Bert", max_tokens_per_forward=0)


@pytest.mark.parametrize(("family", "usable"), [("DistilBert", 40), ("Bert", 40), ("Roberta", 38), ("Camembert", 38)])
def test_a_row_beyond_the_context_is_refused_and_one_that_fills_it_is_not(family, usable):
    tokenizer = tokenizer_of(family)
    pad = tokenizer.pad_token_id
    classifier = tiny_family(family, len(tokenizer), pad_token_id=pad, max_position_embeddings=40)
    model = EncoderRewardModel(classifier, tokenizer, name="judge")
    fits = make_rollouts([[20, 21, 22]], [[23] * (usable - 5)])
    assert bool(torch.isfinite(model.score(Variants.whole(fits)).values).all())
    long = make_rollouts([[20, 21, 22]], [[23] * (usable - 4)])
    calls = [
        lambda: model.score(Variants.whole(long)),
        lambda: model.prefix_scores(long),
        lambda: model.response_attention(long),
        lambda: model.integrated_gradients(long, long.response_mask, 2),
    ]
    for call in calls:
        with pytest.raises(ShapeError, match=rf"have {usable + 1} tokens, but reward model judge has a context"):
            call()


def test_an_encoder_can_do_all_but_give_prefix_scores_in_one_pass():
    assert reward_model("Bert").abilities == {"attention", "gradient", "absent_mask", "absent_attention"}


def test_identity_changes_with_weights_and_scale():
    identities = {
        reward_model("Bert").identity(),
        EncoderRewardModel(classifier_of("Bert"), word_tokenizer(), mean=MEAN).identity(),
        EncoderRewardModel(tiny_family("Bert", 157, seed=2), word_tokenizer(), mean=MEAN).identity(),
    }
    assert len(identities) == 3
    assert reward_model("Bert").identity() in identities


def test_an_empty_prompt_and_an_empty_response_are_framed_alone():
    rollouts = Rollouts(
        torch.zeros(1, 0, dtype=torch.long),
        torch.zeros(1, 0, dtype=torch.bool),
        torch.tensor([[5]]),
        torch.tensor([[False]]),
    )
    for family, pair in CASES:
        value = float(reward_model(family, pair).score(Variants.whole(rollouts)).values)
        assert value == pytest.approx(plain(family, "", "", pair), abs=1e-4)
        assert real_ids(rollouts, 0) == ([], [])
