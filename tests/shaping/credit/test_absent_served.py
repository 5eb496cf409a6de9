"""Which reward model can mask and hide, and how: encoders, other tokenizers, functions of texts; and who is refused."""

import pytest
import torch
from transformers import GPTNeoConfig, GPTNeoForSequenceClassification

from shaping import (
    METHODS,
    CausalRewardModel,
    ConfigError,
    EncoderRewardModel,
    RetokenizedRewardModel,
    Shape,
    ShapeError,
    Shaper,
    TextRewardModel,
)
from shaping.variants import Variants
from tests.support.models.absent_units import (
    BY_UNITS,
    MASK,
    classifier_of,
    every_coalition,
    every_operator,
    parts,
    plain,
    reward_model,
    rollouts_of_all_kinds,
)
from tests.support.models.tiny_families import (
    byte_tokenizer,
    forward_shapes,
    roberta_tokenizer,
    tiny_family,
    word_tokenizer,
)
from tests.support.models.tiny_models import (
    BOS,
    EOS,
    SCORE_DEVIATION,
    SCORE_MEAN,
    encode,
    make_rollouts,
    real_ids,
    tiny_classifier,
    tiny_tokenizer,
)


def encoder(family, pair=False, **options):
    tokenizer = roberta_tokenizer() if family == "Roberta" else word_tokenizer()
    classifier = classifier_of(family, vocabulary=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    return EncoderRewardModel(classifier, tokenizer, None, pair, SCORE_MEAN, SCORE_DEVIATION, "judge", **options)


@torch.no_grad()
def plain_encoder(classifier, prompt, response, keep, absent, first, middle, last):
    """Return the score of one framed row, absent tokens replaced, or masked from attention."""
    if absent == "mask":
        response = [token if kept else MASK for token, kept in zip(response, keep, strict=True)]
        keep = [True] * len(keep)
    ahead = [*first, *prompt, *middle]
    seen = [True] * len(ahead) + keep + [True] * len(last)
    inputs = {"input_ids": torch.tensor([[*ahead, *response, *last]]), "attention_mask": torch.tensor([seen]).long()}
    if middle and classifier.config.type_vocab_size == 2:
        inputs["token_type_ids"] = torch.tensor([[0] * len(ahead) + [1] * (len(response) + len(last))])
    return (float(classifier(**inputs).logits[0, 0]) - SCORE_MEAN) / SCORE_DEVIATION


@every_operator
@pytest.mark.parametrize("max_tokens", [1, 4096])
@pytest.mark.parametrize(
    ("family", "pair"), [("DistilBert", False), ("Bert", False), ("Bert", True), ("Roberta", False), ("Roberta", True)]
)
def test_encoders_score_whole_rows_masked(family, pair, max_tokens, absent):
    model = encoder(family, pair, mask_token_id=MASK, max_tokens_per_forward=max_tokens)
    rollouts = make_rollouts([[10, 9], [10, 11, 12, 9], [13]], [[20, 21, 20, 22], [23, EOS, 24], []])
    variants = every_coalition(rollouts, absent)
    start, end = (0, 2) if family == "Roberta" else (word_tokenizer().cls_token_id, word_tokenizer().sep_token_id)
    frame = ([start], [end] * (2 if family == "Roberta" else 1) if pair else [], [end])
    # The first batch is a trial as well: some of its rows are forwarded alone.
    model.score(variants)
    with forward_shapes(model.model) as shapes:
        scored = model.score(variants)
    expected = [plain_encoder(model.model, *part, absent, *frame) for part in parts(variants)]
    assert scored.values.tolist() == pytest.approx(expected, abs=1e-4)
    assert float(scored.values.std()) > 0.05
    assert scored.forwarded_tokens == sum(rows * width for rows, width in shapes)


def test_an_encoder_masks_with_its_tokenizers_mask_token_unless_told_otherwise():
    rollouts = make_rollouts([[10, 9]], [[20, 21, 22]])
    variants = every_coalition(rollouts, "mask")
    usual, same, other = (
        encoder("Bert", mask_token_id=token).score(variants).values
        for token in (None, word_tokenizer().mask_token_id, MASK)
    )
    assert torch.equal(usual, same)
    assert float((usual - other).abs().max()) > 1e-3


@every_operator
def test_a_model_of_another_tokenizer_masks_and_hides_its_own_tokens(absent):
    tokenizer, policy = byte_tokenizer(290), byte_tokenizer()
    inner = CausalRewardModel(tiny_family("Llama", len(tokenizer)), SCORE_MEAN, SCORE_DEVIATION, mask_token_id=MASK)
    model = RetokenizedRewardModel(inner, tokenizer, policy, eos_token_id=EOS)
    pairs = [("the film ", "was good"), ("so ", "naïve 😀"), ("why? ", "")]
    ids = [[policy(text, add_special_tokens=False)["input_ids"] for text in pair] for pair in pairs]
    rollouts = make_rollouts([prompt for prompt, _ in ids], [[*ids[0][1], EOS], ids[1][1], []])
    aligned = model.align(rollouts)
    assert aligned.rollouts.response_tokens.tolist() != rollouts.response_tokens.tolist()
    generator = torch.Generator().manual_seed(0)
    owner = torch.tensor([0, 1]).repeat_interleave(12)
    kept = torch.rand(24, rollouts.response_ids.shape[1], generator=generator) < 0.5
    always = rollouts.response_ids == EOS
    variants = Variants(rollouts, owner, (kept | always[owner]) & rollouts.response_mask[owner], absent)
    found = model.score(variants).values.tolist()
    for value, row, keep in zip(found, owner.tolist(), variants.keep.tolist(), strict=True):
        prompt, response = real_ids(aligned.rollouts, row)
        of_inner = [keep[place] for place in aligned.policy_token[row, : len(response)].tolist()]
        assert value == pytest.approx(plain(inner.model, prompt, response, of_inner, absent), abs=1e-4)
    assert max(found) - min(found) > 0.1


def test_a_function_of_texts_is_given_a_text_for_each_masked_token():
    calls = []

    def judge(texts):
        calls.extend(texts)
        return [float(len(text)) for text in texts]

    model = TextRewardModel(judge, tiny_tokenizer(), name="judge", mask_text=" _")
    good, bad = encode("good")[:1], encode("bad")[:1]
    rollouts = make_rollouts([[BOS, *encode("a")]], [[*good, *bad, EOS]])
    variants = every_coalition(rollouts, "mask")
    found = model.score(variants).values.tolist()
    first, second = (tiny_tokenizer().decode(word) for word in (good, bad))
    expected = [f" a{first}{second}", f" a{first} _", f" a _{second}", " a _ _"]
    assert calls == expected
    assert found == [len(text) for text in expected]
    calls.clear()
    model.score(Variants(rollouts, variants.owner, variants.keep))
    assert calls == [f" a{first}{second}", f" a{first}", f" a{second}", " a"]


CANNOT = {
    "no token": (lambda: CausalRewardModel(tiny_classifier(), name="judge"), "mask"),
    "padding ends": (lambda: CausalRewardModel(tiny_family("Llama", pad_token_id=EOS), name="judge"), "mask"),
    "padding is beyond": (lambda: CausalRewardModel(tiny_family("Llama", pad_token_id=-1), name="judge"), "mask"),
    "padding has no position": (lambda: encoder("Roberta"), "mask"),
    "text": (lambda: TextRewardModel(len, tiny_tokenizer(), name="judge"), "mask"),
    "no positions": (lambda: CausalRewardModel(tiny_family("Bloom"), name="judge"), "attention"),
    "alibi": (lambda: CausalRewardModel(tiny_family("Falcon", alibi=True), name="judge"), "attention"),
    "text cannot hide": (lambda: TextRewardModel(len, tiny_tokenizer(), name="judge", mask_text="_"), "attention"),
}


@pytest.mark.parametrize("case", CANNOT)
def test_a_reward_model_that_cannot_is_refused_by_name_where_a_method_plays_coalitions(case):
    make, absent = CANNOT[case]
    model = make()
    for method in sorted(METHODS):
        shape = Shape(weights={method: 0.4, "uniform": 0.6} if method != "uniform" else {method: 1.0}, absent=absent)
        if METHODS[method].needs <= model.abilities and method not in BY_UNITS:
            Shaper(shape, model, tiny_tokenizer())
        elif method in BY_UNITS:
            with pytest.raises(
                ConfigError, match=f"absent = {absent}: the reward model judge .*\n.*set absent to delete"
            ):
                Shaper(shape, model, tiny_tokenizer())
    with pytest.raises(ConfigError, match=f"absent = {absent}: the reward model judge"):
        model.score(every_coalition(rollouts_of_all_kinds(), absent))


def test_the_mask_token_is_by_default_the_mask_or_padding_of_the_config():
    classifier, variants = tiny_family("Llama", pad_token_id=MASK), every_coalition(rollouts_of_all_kinds(), "mask")
    told = {
        token: CausalRewardModel(classifier, mask_token_id=token).score(variants).values for token in (MASK, MASK + 1)
    }
    assert float((told[MASK] - told[MASK + 1]).abs().max()) > 0.1
    assert torch.equal(CausalRewardModel(classifier).score(variants).values, told[MASK])
    classifier.config.mask_token_id = MASK + 1
    assert torch.equal(CausalRewardModel(classifier).score(variants).values, told[MASK + 1])


@pytest.mark.parametrize("wrong", [-1, 100_000, 2.0, True, "[MASK]"])
def test_a_mask_token_beyond_the_vocabulary_is_refused(wrong):
    for make in (lambda: reward_model("Llama", mask_token_id=wrong), lambda: encoder("Bert", mask_token_id=wrong)):
        with pytest.raises(
            ConfigError, match=r"mask_token_id = .* is not a token of reward model .*\nchoose an id from 0"
        ):
            make()


def test_a_mask_token_without_a_position_is_refused():
    with pytest.raises(ConfigError, match="mask_token_id = 1 is the padding of reward model judge"):
        encoder("Roberta", mask_token_id=1)


@pytest.mark.trials
def test_a_model_in_which_hidden_tokens_leave_a_trace_is_refused():
    classifier = tiny_classifier()
    forward = classifier.model.forward

    def leaky(input_ids, attention_mask=None, position_ids=None, **options):
        output = forward(input_ids, attention_mask=attention_mask, position_ids=position_ids, **options)
        # A state that every token moves, masked or not.
        state = classifier.model.embed_tokens(input_ids).cumsum(dim=1)
        return type(output)(last_hidden_state=output.last_hidden_state + state)

    classifier.model.forward = leaky
    model = CausalRewardModel(classifier, name="judge")
    for _ in range(2):
        with pytest.raises(ConfigError, match="absent = attention: the reward model judge cannot hide tokens"):
            model.score(every_coalition(rollouts_of_all_kinds(), "attention"))
    model.score(every_coalition(rollouts_of_all_kinds(), "delete"))


def test_hidden_tokens_take_room_in_the_context_and_in_a_window():
    rollouts = make_rollouts([[BOS, 9]], [list(range(20, 38))])
    keep = torch.zeros(1, 18, dtype=torch.bool)
    keep[0, -1] = True
    short = CausalRewardModel(tiny_family("GPT2", max_position_embeddings=19), name="judge", mask_token_id=MASK)
    windowed = CausalRewardModel(tiny_family("Mistral", sliding_window=19), name="judge")
    options = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]}
    local = GPTNeoForSequenceClassification(GPTNeoConfig(**options, vocab_size=290, window_size=19, num_labels=1))
    of_window = r"absent = attention in reward model judge: a row of 20 tokens is longer than .* window of 19"
    for model, message in (
        (short, "20 tokens, but reward model judge has a context of 19"),
        (windowed, of_window),
        (CausalRewardModel(local, name="judge"), of_window),
    ):
        model.score(Variants(rollouts, torch.tensor([0]), keep))
        with pytest.raises(ShapeError, match=message):
            model.score(Variants(rollouts, torch.tensor([0]), keep, "attention"))
    with pytest.raises(ShapeError, match="20 tokens, but reward model judge has a context of 19"):
        short.score(Variants(rollouts, torch.tensor([0]), keep, "mask"))
