"""Functions of texts as reward models: what texts they are given, how often, and what they cannot serve."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from shaping import METHODS, ConfigError, Shape, ShapeError, Shaper, TextRewardModel, TrialFailed
from shaping.scoring import score_coalitions
from shaping.variants import Variants
from tests.support.models.tiny_families import byte_tokenizer
from tests.support.models.tiny_models import (
    BOS,
    EOS,
    encode,
    make_rollouts,
    mixed_rollouts,
    real_ids,
    scored_batch,
    tiny_tokenizer,
)
from tests.support.models.tiny_plans import random_plan, unit_index

SERVED = sorted(name for name, method in METHODS.items() if not method.needs)


def length_and_vowels(texts):
    """Return a score that knows order and place of characters."""
    return [
        sum((place + 1) * (0.1 if letter in "aeiou" else 0.01) for place, letter in enumerate(text)) for text in texts
    ]


class Listener:
    """A reward function that keeps what it was given."""

    def __init__(self, function=length_and_vowels):
        self.function, self.calls = function, []

    def __call__(self, *texts):
        self.calls.append(texts if len(texts) > 1 else texts[0])
        return self.function(texts[-1])


def text_of(ids):
    return byte_tokenizer().decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def text_of_row(rollouts, row):
    prompt, response = real_ids(rollouts, row)
    return tiny_tokenizer().decode(prompt + response, skip_special_tokens=True)


def byte_rollouts(pairs):
    tokenizer = byte_tokenizer()
    prompts = [[BOS, *tokenizer(prompt, add_special_tokens=False)["input_ids"]] for prompt, _ in pairs]
    return make_rollouts(prompts, [tokenizer(text, add_special_tokens=False)["input_ids"] for _, text in pairs])


def test_the_function_is_given_texts_without_the_characters_of_absent_tokens():
    rollouts, listener = mixed_rollouts(), Listener()
    model, index = TextRewardModel(listener, tiny_tokenizer()), unit_index(mixed_rollouts(), "span")
    plan = random_plan(index, per_response=6)
    scored = score_coalitions(model, rollouts, plan)
    asked = [text for call in listener.calls for text in call]
    expected = []
    for group, values in zip(plan, scored.values, strict=True):
        for place, row in enumerate(group.rows.tolist()):
            prompt, response = real_ids(rollouts, row)
            for members, value in zip(group.members[place].tolist(), values[place].tolist(), strict=True):
                units = index[row, : len(response)].tolist()
                kept = [token for token, unit in zip(response, units, strict=True) if unit < 0 or members[unit]]
                # In this tokenizer every token's characters are its own, whatever stands around it.
                text = tiny_tokenizer().decode([*prompt, *kept], skip_special_tokens=True)
                expected.append(text)
                assert value == pytest.approx(length_and_vowels([text])[0], abs=1e-4)
    assert set(asked) == set(expected)
    assert scored.forwarded_tokens == 0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    text=st.text(st.sampled_from("ab é日😀👍🏽\u200d\u0301\n  "), min_size=1, max_size=14),
    chosen=st.lists(st.booleans(), min_size=60, max_size=60),
)
def test_every_character_goes_with_the_token_that_completes_it(text, chosen):
    listener = Listener(lambda texts: [0.0] * len(texts))
    rollouts = byte_rollouts([("a prompt: ", text)])
    keep = torch.tensor([chosen[: rollouts.response_ids.shape[1]]])
    TextRewardModel(listener, byte_tokenizer(), separate=True).score(Variants(rollouts, torch.tensor([0]), keep))
    ((prompts, responses),) = listener.calls
    assert prompts == ["a prompt: "]
    # The bytes of the text, each with whether its token stays; a character stays when its last byte does.
    tokens = rollouts.response_ids[0].tolist()
    stays = [kept for token, kept in zip(tokens, keep[0].tolist(), strict=True) for _ in range(bytes_of(token))]
    assert len(stays) == len(text.encode())
    lasts = [len(text[: place + 1].encode()) - 1 for place in range(len(text))]
    assert responses == ["".join(letter for letter, last in zip(text, lasts, strict=True) if stays[last])]


def bytes_of(token):
    """Return the bytes of a byte-level token: one for each of its letters."""
    return len(byte_tokenizer().convert_ids_to_tokens([token])[0])


def test_texts_that_are_alike_are_scored_once():
    word = encode("good")
    rollouts = make_rollouts([[BOS, *encode("a")]] * 2, [[*word, *word], [*word, EOS]])
    listener = Listener()
    model = TextRewardModel(listener, tiny_tokenizer())
    keep = torch.zeros(4, rollouts.response_ids.shape[1], dtype=torch.bool)
    keep[0, : len(word)] = keep[1, len(word) : 2 * len(word)] = keep[2, : len(word) + 1] = True
    values = model.score(Variants(rollouts, torch.tensor([0, 0, 1, 1]), keep)).values
    (texts,) = listener.calls
    assert texts == [" a good", " a"]
    assert values.tolist() == pytest.approx(length_and_vowels([" a good"] * 3 + [" a"]), abs=1e-5)


@pytest.mark.parametrize(("most", "calls"), [(1, 8), (3, 3), (256, 1)])
def test_a_call_has_no_more_texts_than_allowed(most, calls):
    rollouts, listener = make_rollouts([[BOS]], [list(range(70, 77))]), Listener()
    expected = TextRewardModel(length_and_vowels, tiny_tokenizer()).prefix_scores(rollouts)
    found = TextRewardModel(listener, tiny_tokenizer(), texts_per_call=most).prefix_scores(rollouts)
    assert len(listener.calls) == calls
    assert max(len(texts) for texts in listener.calls) <= most
    assert torch.equal(found, expected)


def test_prompts_and_responses_come_apart_when_asked():
    pairs = [("what? ", "good"), ("why? ", "bad film"), ("why? ", "")]
    rollouts, listener = byte_rollouts(pairs), Listener()
    values = TextRewardModel(listener, byte_tokenizer(), separate=True).score(Variants.whole(rollouts)).values
    assert listener.calls == [(["what? ", "why? ", "why? "], ["good", "bad film", ""])]
    assert values.tolist() == pytest.approx(length_and_vowels(["good", "bad film", ""]))


def test_prefix_scores_are_scores_of_growing_texts():
    text = "the film was good, naïve 😀!"
    rollouts = byte_rollouts([("a ", text), ("a ", "bad")])
    found = TextRewardModel(length_and_vowels, byte_tokenizer()).prefix_scores(rollouts)
    for row in range(2):
        prompt, response = real_ids(rollouts, row)
        for end in range(found.shape[1]):
            # A character that is not yet complete is not yet there.
            shown = text_of(prompt + response[:end]).rstrip("\N{REPLACEMENT CHARACTER}")
            assert float(found[row, end]) == pytest.approx(length_and_vowels([shown])[0], abs=1e-5)


@pytest.mark.parametrize("change", [lambda scores: scores[:-1], lambda scores: [*scores, 1.0], lambda scores: []])
def test_another_number_of_scores_than_texts_is_refused(change):
    def wrong(texts):
        return change(length_and_vowels(texts))

    model = TextRewardModel(wrong, tiny_tokenizer(), name="judge")
    with pytest.raises(ShapeError, match=r"reward function judge returned \d scores for 7 texts\nreturn one number"):
        model.score(Variants.whole(mixed_rollouts()))


@pytest.mark.parametrize("name", SERVED)
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_score_that_is_not_finite_ends_the_trial(name, wrong):
    def broken(texts):
        return [wrong if "cast" in text and "great" in text else 1.0 for text in texts]

    shaper = Shaper(Shape(weights={name: 1.0}), TextRewardModel(broken, tiny_tokenizer()), tiny_tokenizer())
    with pytest.raises(TrialFailed, match="reward model broken scored response 4 of the batch") as failure:
        shaper(mixed_rollouts())
    assert failure.value.reason == "nan"


@pytest.mark.parametrize("name", ["prefix", *(name for name in SERVED if METHODS[name].by_units)])
def test_a_variant_that_is_not_finite_ends_the_trial_too(name):
    rollouts = mixed_rollouts().select(torch.tensor([6]))
    whole = text_of_row(rollouts, 0)

    def broken(texts):
        return [1.0 if text == whole else math.nan for text in texts]

    shaper = Shaper(Shape(weights={name: 1.0}), TextRewardModel(broken, tiny_tokenizer()), tiny_tokenizer())
    with pytest.raises(TrialFailed, match="reward model broken scored response 0 of the batch as nan"):
        shaper(rollouts)


@pytest.mark.parametrize("name", sorted(set(METHODS) - set(SERVED)))
def test_a_method_that_needs_the_inside_of_a_model_is_refused_before_anything_is_scored(name):
    listener = Listener()
    model = TextRewardModel(listener, tiny_tokenizer(), name="judge")
    with pytest.raises(ConfigError, match=rf"weights\.{name}: the reward model judge gives no {name}\nset the weight"):
        Shaper(Shape(weights={name: 0.1, "sparse": 0.9}), model, tiny_tokenizer())
    Shaper(Shape(weights={name: 0.0, "sparse": 1.0}), model, tiny_tokenizer())
    assert listener.calls == []


def test_asked_directly_for_attention_or_gradients_it_refuses():
    model, rollouts = TextRewardModel(length_and_vowels, tiny_tokenizer()), mixed_rollouts()
    with pytest.raises(ConfigError, match="the reward function length_and_vowels has no attention"):
        model.response_attention(rollouts)
    with pytest.raises(ConfigError, match="the reward function length_and_vowels has no gradient"):
        model.integrated_gradients(rollouts, rollouts.response_mask, 4)


@pytest.mark.parametrize("name", SERVED)
@pytest.mark.parametrize("unit", ["token", "span"])
def test_every_other_method_gives_rewards_that_sum_to_the_functions_score(name, unit):
    rollouts = mixed_rollouts()
    model = TextRewardModel(length_and_vowels, tiny_tokenizer())
    shape = Shape(weights={name: 1.0}, unit=unit, budget=24, max_units=10)
    shaped = Shaper(shape, model, tiny_tokenizer()).shaped(rollouts)
    scores = length_and_vowels([text_of_row(rollouts, row) for row in range(len(rollouts))])
    assert shaped.scores.tolist() == pytest.approx(scores, abs=1e-4)
    expected = [score * bool(real_ids(rollouts, row)[1]) for row, score in enumerate(scores)]
    assert shaped.token_rewards.sum(dim=1).tolist() == pytest.approx(expected, abs=1e-4)
    assert not shaped.token_rewards[~rollouts.response_mask].any()


def test_additive_scores_give_each_token_its_own_characters():
    def letters(texts):
        return [text.count("o") + 10 * text.count("d") for text in texts]

    rollouts = mixed_rollouts()
    model = TextRewardModel(letters, tiny_tokenizer())
    response = real_ids(rollouts, 3)[1]
    expected = letters([tiny_tokenizer().decode([token]) for token in response])
    for name in ("prefix", "shapley", "owen", "kernel_shap"):
        credit = METHODS[name].credit(scored_batch(model, rollouts, "token", budget=400)).values
        assert credit[3].tolist() == pytest.approx(expected, abs=0.02)


def test_what_cannot_be_called_is_refused():
    with pytest.raises(ConfigError, match="the reward function 'judge' cannot be called"):
        TextRewardModel("judge", tiny_tokenizer())


def test_its_name_is_the_functions_unless_given():
    assert TextRewardModel(length_and_vowels, tiny_tokenizer()).name == "length_and_vowels"
    assert TextRewardModel(Listener(), tiny_tokenizer()).name == "Listener"
    assert TextRewardModel(Listener(), tiny_tokenizer(), name="judge").name == "judge"
