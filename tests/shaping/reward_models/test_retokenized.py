"""Reward models of another tokenizer: nothing of a reward is lost or doubled on the way through characters."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from shaping import METHODS, CausalRewardModel, ConfigError, EncoderRewardModel, RetokenizedRewardModel, Shape, Shaper
from shaping.alignment import AlignedRollouts, DecodedRollouts
from shaping.scoring import score_coalitions
from shaping.variants import NO_TOKEN, Variants
from tests.support.models.retokenized import REWARD_TOKENIZERS, inner_model, reward_model
from tests.support.models.tiny_families import (
    byte_tokenizer,
    tiny_family,
    word_tokenizer,
)
from tests.support.models.tiny_models import BOS, EOS, make_rollouts, real_ids, scored_batch
from tests.support.models.tiny_plans import random_plan

# What each tokenizer puts before a text.
OPENINGS = {"bytes": [], "bytes with a space": [0], "words": [2], "unigram": []}
every_tokenizer = pytest.mark.parametrize("name", REWARD_TOKENIZERS)
TEXTS = [
    ("what? ", "the film was good, the plot was not; why?"),
    ("日本 ", "naïve café 😀👍🏽 end"),
    ("", "a  great\n\ncast! 👩‍👩‍👧"),
    ("naïve", ""),
    ("what? ", "e\u0301te\u0301 映画は良い。 so good"),
]
# Letters of one to four bytes, marks that combine, joined emoji, and runs of white space.
LETTERS = st.sampled_from(
    [*"abcdet ,.;", "  ", "\n", "é", "ñ", "e\u0301", "ﬁ", "日", "本", "한", "😀", "👍🏽", "👩‍👩‍👧", "\u200d"]
)
# Nothing that may become a special token, which has no characters: hypothesis draws strings from the code, too.
ANY_LETTER = st.characters(exclude_categories=["Cs"], exclude_characters="\N{REPLACEMENT CHARACTER}<[")
texts = st.one_of(st.lists(LETTERS, max_size=14).map("".join), st.text(ANY_LETTER, max_size=10))


def policy_ids(text):
    return byte_tokenizer()(text, add_special_tokens=False)["input_ids"]


def policy_rollouts(pairs, ends=(True, False)):
    responses = [policy_ids(text) + [EOS] * ends[row % len(ends)] for row, (_, text) in enumerate(pairs)]
    return make_rollouts([[BOS, *policy_ids(prompt)] for prompt, _ in pairs], responses)


def token_bytes(ids):
    """Return how many bytes of the text each of the policy's tokens stands for."""
    special = set(byte_tokenizer().all_special_ids)
    tokens = byte_tokenizer().convert_ids_to_tokens(ids)
    return [0 if token in special else len(letters) for token, letters in zip(ids, tokens, strict=True)]


def owners_by_bytes(response, texts):
    """Return for each text that a token completes the first policy token after which all of its bytes are there."""
    reached, so_far = [], 0
    for count in token_bytes(response):
        so_far += count
        reached.append(so_far)
    return [next(i for i, there in enumerate(reached) if there >= len(text.encode())) for text in texts]


def other_tokens(name, prompt, text, response):
    """Return the other tokenizer's ids of the joined texts, the prompt's and the response's, and the owners of these.

    The owners are found from bytes.
    """
    encoded = REWARD_TOKENIZERS[name]()(prompt + text, add_special_tokens=False, return_offsets_mapping=True)
    ids, ends = encoded["input_ids"], [end for _, end in encoded["offset_mapping"]]
    first = next((place for place, end in enumerate(ends) if end > len(prompt)), len(ends))
    completed = [(prompt + text)[len(prompt) : end] for end in ends[first:]]
    return ids[:first], ids[first:], owners_by_bytes(response, completed)


@every_tokenizer
@settings(max_examples=60, deadline=None, derandomize=True)
@given(prompt=texts, text=texts, finished=st.booleans())
def test_every_token_belongs_to_the_policy_token_that_completes_it(name, prompt, text, finished):
    rollouts = policy_rollouts([(prompt, text)], ends=(finished,))
    response = real_ids(rollouts, 0)[1]
    aligned = reward_model(name).align(rollouts)
    before, ids, owners = other_tokens(name, prompt, text, response)
    count = int(aligned.rollouts.response_mask.sum())
    assert real_ids(aligned.rollouts, 0)[0] == OPENINGS[name] + before
    assert aligned.rollouts.response_ids[0, :count].tolist() == ids
    assert aligned.policy_token[0, :count].tolist() == owners == sorted(owners)


@every_tokenizer
@settings(max_examples=60, deadline=None, derandomize=True)
@given(pairs=st.lists(st.tuples(texts, texts), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_sums_are_kept_when_values_move_to_the_policys_tokens(name, pairs, seed):
    rollouts = policy_rollouts(pairs)
    aligned = reward_model(name).align(rollouts)
    shape = aligned.rollouts.response_ids.shape
    # Whole numbers: float sums of them are exact.
    values = torch.randint(-9, 9, shape, generator=torch.Generator().manual_seed(seed)).float()
    moved = aligned.to_policy(values, rollouts.response_ids.shape[1])
    assert moved.sum(dim=1).tolist() == (values * aligned.rollouts.response_mask).sum(dim=1).tolist()
    assert not moved[~rollouts.response_mask].any()
    for row in range(len(rollouts)):
        _, ids, owners = other_tokens(name, *pairs[row], real_ids(rollouts, row)[1])
        expected = [0.0] * moved.shape[1]
        for place in range(len(ids)):
            expected[owners[place]] += float(values[row, place])
        assert moved[row].tolist() == expected


@every_tokenizer
@settings(max_examples=80, deadline=None, derandomize=True)
@given(prompt=st.lists(st.integers(3, 329), max_size=6), response=st.lists(st.integers(2, 329), max_size=12))
def test_sampled_tokens_of_no_valid_text_are_aligned_too(name, prompt, response):
    """Any ids in any order: bytes out of place, characters begun in the prompt or never finished."""
    rollouts = make_rollouts([[BOS, *prompt]], [response])
    decoded = DecodedRollouts.of(rollouts, byte_tokenizer())
    whole = byte_tokenizer().decode([*prompt, *response], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    (ends,) = decoded.ends
    assert decoded.prompts[0] + decoded.responses[0] == whole
    assert ends == sorted(ends) and len(ends) == len(response)
    assert decoded.kept_text(0, [True] * len(response)) == decoded.responses[0]
    assert decoded.kept_text(0, [False] * len(response)) == ""
    aligned = AlignedRollouts.of(decoded, REWARD_TOKENIZERS[name](), framed=True, eos_token_id=None)
    count = int(aligned.rollouts.response_mask.sum())
    owners = aligned.policy_token[0, :count].tolist()
    joined = REWARD_TOKENIZERS[name]()(whole, add_special_tokens=False)["input_ids"]
    before, after = real_ids(aligned.rollouts, 0)
    assert before + after == OPENINGS[name] + joined
    assert owners == sorted(owners)
    assert all(0 <= owner < len(response) for owner in owners)
    moved = aligned.to_policy(torch.ones(1, aligned.rollouts.response_ids.shape[1]), rollouts.response_ids.shape[1])
    assert moved.sum() == count


def test_a_character_that_never_ends_belongs_to_the_tokens_that_began_it():
    start, middle = (byte_tokenizer().convert_tokens_to_ids(letter) for letter in ("ð", "Ł"))
    rollouts = make_rollouts([[BOS, *policy_ids("so ")]], [[*policy_ids("good "), start, middle]])
    decoded = DecodedRollouts.of(rollouts, byte_tokenizer())
    assert decoded.responses == ["good \N{REPLACEMENT CHARACTER}"]
    shaped = Shaper(Shape(weights={"prefix": 1.0}), reward_model("bytes"), byte_tokenizer()).shaped(rollouts)
    torch.testing.assert_close(shaped.token_rewards.sum(dim=1), shaped.scores, atol=1e-5, rtol=0)


@torch.no_grad()
def plain(name, ids):
    """Return the library's score of what the tokenizer puts before a text, and of tokens behind it."""
    return (float(inner_model(name).model(input_ids=torch.tensor([[*OPENINGS[name], *ids]])).logits) - 0.3) / 0.7


@every_tokenizer
def test_score_is_the_librarys_own_of_the_joined_text(name):
    found = reward_model(name).score(Variants.whole(policy_rollouts(PAIRS))).values
    joined = [REWARD_TOKENIZERS[name]()(prompt + text, add_special_tokens=False)["input_ids"] for prompt, text in PAIRS]
    assert found.tolist() == pytest.approx([plain(name, ids) for ids in joined], abs=1e-4)


# A prompt that both begins with something in every tokenizer.
PAIRS = [(prompt or "so", text) for prompt, text in TEXTS]


@every_tokenizer
def test_prefix_scores_are_those_of_the_tokens_that_are_complete(name):
    rollouts, model = policy_rollouts(PAIRS), reward_model(name)
    found = model.prefix_scores(rollouts)
    for row, (prompt, text) in enumerate(PAIRS):
        response = real_ids(rollouts, row)[1]
        before, ids, owners = other_tokens(name, prompt, text, response)
        for end in range(found.shape[1]):
            done = [token for token, owner in zip(ids, owners, strict=True) if owner < end]
            assert float(found[row, end]) == pytest.approx(plain(name, before + done), abs=1e-4)


@every_tokenizer
def test_prefix_credit_telescopes(name):
    rollouts = policy_rollouts(PAIRS)
    batch = scored_batch(reward_model(name), rollouts, tokenizer=byte_tokenizer())
    total = METHODS["prefix"].credit(batch).values.sum(dim=1)
    for row, (prompt, text) in enumerate(PAIRS):
        before, ids, _ = other_tokens(name, prompt, text, real_ids(rollouts, row)[1])
        whole, bare = (plain(name, before + kept) for kept in (ids, []))
        assert float(total[row]) == pytest.approx(whole - bare, abs=1e-4)
        assert float(batch.scores[row]) == pytest.approx(whole, abs=1e-4)


@every_tokenizer
@pytest.mark.parametrize("method", sorted(METHODS))
def test_token_rewards_sum_to_the_score_for_every_method(name, method):
    rollouts = policy_rollouts(PAIRS)
    shape = Shape(weights={method: 1.0}, unit="token", budget=24, max_units=9)
    shaped = Shaper(shape, reward_model(name), byte_tokenizer()).shaped(rollouts)
    expected = [
        plain(name, REWARD_TOKENIZERS[name]()(prompt + text, add_special_tokens=False)["input_ids"])
        for prompt, text in PAIRS
    ]
    expected = [score * bool(real_ids(rollouts, row)[1]) for row, score in enumerate(expected)]
    assert shaped.token_rewards.sum(dim=1).tolist() == pytest.approx(expected, abs=1e-4)
    assert not shaped.token_rewards[~rollouts.response_mask].any()
    if method != "sparse":
        assert int((shaped.token_rewards[0].abs() > 1e-4).sum()) > 1


class Listener:
    """An inner reward model that keeps what it was asked."""

    name, abilities, added_tokens, layers = "listener", frozenset(), 0, 0

    def __init__(self, inner):
        self.inner, self.asked = inner, []

    def score(self, variants):
        kept = [[token for token in row if token != NO_TOKEN] for row in variants.kept_ids().tolist()]
        self.asked += list(zip(variants.owner.tolist(), kept, strict=True))
        return self.inner.score(variants)


@every_tokenizer
def test_coalitions_keep_the_tokens_whose_units_they_keep(name):
    rollouts, listener = policy_rollouts(PAIRS), Listener(inner_model(name))
    mask = rollouts.response_mask & (rollouts.response_ids != EOS)
    # Units of three tokens.
    index = torch.where(mask, (mask.long().cumsum(dim=1) - 1) // 3, -1)
    plan = random_plan(index, per_response=6)
    scored = score_coalitions(reward_model(name, listener), rollouts, plan)
    expected = set()
    for group, values in zip(plan, scored.values, strict=True):
        for place, row in enumerate(group.rows.tolist()):
            prompt, text = PAIRS[row]
            before, ids, owners = other_tokens(name, prompt, text, real_ids(rollouts, row)[1])
            for members, value in zip(group.members[place].tolist(), values[place].tolist(), strict=True):
                kept = [token for token, at in zip(ids, owners, strict=True) if members[int(index[row, at])]]
                expected.add((row, tuple(kept)))
                assert value == pytest.approx(plain(name, before + kept), abs=1e-4)
    assert {(row, tuple(kept)) for row, kept in listener.asked} == expected


# Words that do not join across the prompt's end.
ASCII = [
    ("what?", "the film was good, the plot was not; why?"),
    ("why", ""),
    ("", "a great cast! the end"),
    ("a", " b"),
]


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("eos", [None, EOS])
def test_with_the_policys_own_tokenizer_the_results_are_those_of_the_inner_model(method, eos):
    rollouts = policy_rollouts(ASCII)
    inner = CausalRewardModel(tiny_family("Llama", len(byte_tokenizer())), 0.3, 0.7, eos_token_id=eos)
    through = RetokenizedRewardModel(inner, byte_tokenizer(330, True), byte_tokenizer(), eos_token_id=EOS)
    shape = Shape(weights={method: 1.0}, unit="token", budget=24, max_units=9)
    direct, found = (Shaper(shape, model, byte_tokenizer()).shaped(rollouts) for model in (inner, through))
    torch.testing.assert_close(found.token_rewards, direct.token_rewards, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.scores, direct.scores, atol=1e-5, rtol=0)
    assert found.forwarded_tokens == direct.forwarded_tokens


@pytest.mark.parametrize("call", ["attention", "gradient"])
@every_tokenizer
def test_attention_and_gradients_of_a_policy_token_are_the_sums_of_the_tokens_it_completes(name, call):
    rollouts, model = policy_rollouts(PAIRS), reward_model(name)
    whole, inner = rollouts.response_mask, inner_model(name)
    rows = []
    for row, (prompt, text) in enumerate(PAIRS):
        before, ids, owners = other_tokens(name, prompt, text, real_ids(rollouts, row)[1])
        alone = make_rollouts([OPENINGS[name] + before], [ids])
        if call == "attention":
            values = inner.response_attention(alone, 0, "max")[0].tolist()
        else:
            values = inner.integrated_gradients(alone, alone.response_mask, 4)[0].tolist()
        expected = [0.0] * whole.shape[1]
        for owner, value in zip(owners, values, strict=False):
            expected[owner] += value
        rows.append(expected)
    found = model.response_attention(rollouts, 0, "max") if call == "attention" else None
    found = model.integrated_gradients(rollouts, whole, 4) if found is None else found
    torch.testing.assert_close(found, torch.tensor(rows), atol=1e-4, rtol=0)


@pytest.mark.parametrize("pair", [False, True])
def test_an_encoder_of_another_tokenizer_scores_the_text_as_its_tokenizer_frames_it(pair):
    tokenizer = word_tokenizer()
    encoder = tiny_family("Bert", len(tokenizer), pad_token_id=0)
    inner = EncoderRewardModel(encoder, tokenizer, pair=pair, name="encoder")
    model = RetokenizedRewardModel(inner, tokenizer, byte_tokenizer(), framed=False)
    rollouts = policy_rollouts(PAIRS)
    found = model.score(Variants.whole(rollouts)).values
    assert (model.name, model.abilities) == ("encoder", inner.abilities)
    for row, (prompt, text) in enumerate(PAIRS):
        given = tokenizer([prompt], [text]) if pair else tokenizer([prompt + text])
        with torch.no_grad():
            inputs = {key: torch.tensor(value) for key, value in given.items()}
            expected = float(encoder(**inputs).logits)
        assert float(found[row]) == pytest.approx(expected, abs=1e-4)


def test_the_policys_end_is_the_reward_models_end_where_one_is_named():
    rollouts = policy_rollouts([("so ", "good film"), ("so ", "good film"), ("so ", "")], ends=(True, False, True))
    for eos in (None, 7):
        aligned = reward_model("unigram", eos_token_id=eos).align(rollouts)
        _, ids, _ = other_tokens("unigram", "so ", "good film", policy_ids("good film"))
        found = [real_ids(aligned.rollouts, row)[1] for row in range(3)]
        assert found == [ids + [eos] * (eos is not None), ids, [eos] * (eos is not None)]
        if eos is not None:
            assert int(aligned.policy_token[0, len(ids)]) == len(policy_ids("good film"))


def test_prompts_are_framed_and_rewritten_for_the_reward_model():
    rollouts = policy_rollouts([("good", "film"), ("so", "bad")])
    plain_prompts = [real_ids(reward_model("words", framed=False).align(rollouts).rollouts, row)[0] for row in (0, 1)]
    framed = [real_ids(reward_model("words").align(rollouts).rollouts, row)[0] for row in (0, 1)]
    tokenizer = word_tokenizer()
    assert plain_prompts == [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("good", "so")]
    assert framed == [[tokenizer.cls_token_id, *ids] for ids in plain_prompts]
    asked = reward_model("words", prompt_text=lambda text: f"the {text} cast", framed=False).align(rollouts)
    expected = [tokenizer(f"the {text} cast", add_special_tokens=False)["input_ids"] for text in ("good", "so")]
    assert [real_ids(asked.rollouts, row)[0] for row in (0, 1)] == expected


def test_a_batch_is_tokenized_once_and_the_next_one_anew():
    model, one, other = reward_model("bytes"), policy_rollouts(PAIRS), policy_rollouts(ASCII)
    first = model.align(one)
    assert model.align(one) is first
    second = model.align(other)
    assert second is not first
    assert torch.equal(model.align(one).rollouts.response_ids, first.rollouts.response_ids)


class TableTokenizer:
    """A tokenizer whose text of a row and whose offsets are written out."""

    is_fast, eos_token_id = True, EOS

    def __init__(self, texts=(), offsets=()):
        self.texts, self.offsets = texts, offsets

    def batch_decode(self, rows, **options):
        return [self.texts[len(row) - 1] for row in rows]

    def __call__(self, text, return_offsets_mapping=False, **options):
        return {"input_ids": [9] * len(self.offsets), "offset_mapping": self.offsets}


def test_text_that_a_later_token_changes_stays_with_the_token_that_first_completed_it():
    decoded = DecodedRollouts.of(
        make_rollouts([[BOS]], [[3, 4, 5, 6]]), TableTokenizer(["p", "pa", "pab", "pax", "pabc"])
    )
    assert decoded.responses == ["abc"]
    assert decoded.ends == [[1, 2, 2, 3]]
    assert decoded.kept_text(0, [False, True, True, False]) == "b"


def test_offsets_that_go_back_never_move_a_token_before_the_one_ahead_of_it():
    rollouts = make_rollouts([[BOS]], [[3, 4, 5]])
    decoded = DecodedRollouts.of(rollouts, TableTokenizer(["p", "pa", "pab", "pabc"]))
    offsets = [(0, 1), (1, 2), (2, 4), (1, 2), (2, 3), (3, 4)]
    aligned = AlignedRollouts.of(decoded, TableTokenizer(offsets=offsets), framed=False, eos_token_id=None)
    assert aligned.rollouts.prompt_ids.shape[1] == 1
    assert aligned.policy_token.tolist() == [[0, 2, 2, 2, 2]]


def test_a_tokenizer_without_offsets_is_refused():
    class Slow:
        is_fast = False

    model = RetokenizedRewardModel(inner_model("bytes"), Slow(), byte_tokenizer())
    with pytest.raises(ConfigError, match=r"tokenizer Slow gives no character offsets\nload its fast version"):
        model.score(Variants.whole(policy_rollouts(PAIRS)))
