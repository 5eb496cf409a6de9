"""What another tokenizer reads of random texts and chats, control words among them: nothing is lost or forged."""

import copy
from functools import lru_cache

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from tokenizers import AddedToken

from shaping.alignment import AlignedRollouts, DecodedRollouts
from shaping.errors import ConfigError
from shaping.texts.invisible import control_tokens
from shaping.texts.reading import Reading, check_offsets
from tests.support.models.retokenized import REWARD_TOKENIZERS
from tests.support.models.tiny_families import byte_tokenizer
from tests.support.models.tiny_models import BOS, EOS, make_rollouts, real_ids

MARKS = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = [*MARKS, "<s>", "</s>", "<pad>", "<unk>", "[SEP]", "[CLS]", "[UNK]", "[MASK]", "<mask>"]
LETTERS = [
    *"abt ,.<>|[]/",
    "  ",
    "\n",
    "the film",
    " good",
    "é",
    "e\u0301",
    "ﬁ",
    "日本",
    "😀",
    "👩‍👩‍👧",
    "\u200d",
    "\U000f0000",
]
plain_texts = st.one_of(
    st.lists(st.sampled_from(LETTERS), max_size=10).map("".join),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\N{REPLACEMENT CHARACTER}<["), max_size=8),
)
# A part is a text, a control word spelled in ordinary tokens, or (true) a token of the policy's own.
parts = st.lists(
    st.one_of(
        plain_texts.map(lambda text: (text, False)),
        st.sampled_from(WORDS).map(lambda word: (word, False)),
        st.sampled_from(["<think>", "</think>"]).map(lambda word: (word, True)),
    ),
    max_size=6,
)
chats = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), plain_texts), min_size=1, max_size=3)
every_tokenizer = pytest.mark.parametrize("name", REWARD_TOKENIZERS)
fuzzed = settings(max_examples=50, deadline=None, derandomize=True)


@lru_cache(maxsize=8)
def marked(name):
    """Return a tokenizer with the marks of chats and thoughts among its special tokens."""
    tokenizer = copy.deepcopy(byte_tokenizer(330) if name == "policy" else REWARD_TOKENIZERS[name]())
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS})
    tokenizer.chat_template = CHATML
    return tokenizer


def spelled(said):
    """Return the policy's ids of parts, each control word in ordinary tokens unless it is its own."""
    policy, ids = marked("policy"), []
    for text, own in said:
        ids += policy(text, add_special_tokens=False, split_special_tokens=not own)["input_ids"]
    return ids


def library(name, text):
    return REWARD_TOKENIZERS[name]()(text, add_special_tokens=False)["input_ids"]


@every_tokenizer
@fuzzed
@given(prompt=plain_texts, response=plain_texts)
def test_texts_without_control_words_are_read_as_the_library_reads_them_joined(name, prompt, response):
    found = Reading.joined(REWARD_TOKENIZERS[name](), prompt, response)
    assert found.prompt + found.response == library(name, prompt + response)
    assert len(found.ends) == len(found.response)
    assert all(0 <= end <= len(response) for end in found.ends)
    apart = Reading.apart(REWARD_TOKENIZERS[name](), prompt, response)
    assert (apart.prompt, apart.response) == (library(name, prompt), library(name, response))


@every_tokenizer
@fuzzed
@given(turns=chats, said=parts, finished=st.booleans())
def test_no_control_token_is_read_that_the_policy_did_not_say(name, turns, said, finished):
    tokenizer, policy = marked(name), marked("policy")
    chat = [{"role": role, "content": content} for role, content in turns]
    asked = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    before = policy.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    response = spelled(said)
    rollouts = make_rollouts([before], [response + [EOS] * finished])
    decoded = DecodedRollouts.of(rollouts, policy)
    aligned = AlignedRollouts.of(
        DecodedRollouts(rollouts, [asked], decoded.responses, decoded.ends, decoded.finished, decoded.added),
        tokenizer,
        framed=False,
        eos_token_id=None,
    )
    control = set(control_tokens(tokenizer)) - {tokenizer.unk_token_id}
    own, (start, read) = [word for word, true in said if true], real_ids(aligned.rollouts, 0)
    assert tokenizer.convert_ids_to_tokens([token for token in read if token in control]) == own
    # All of the prompt's control tokens are the template's.
    frame = tokenizer(asked, add_special_tokens=False)["input_ids"]
    assert [token for token in start if token in control] == [token for token in frame if token in control]
    owners = aligned.policy_token[0, : len(read)].tolist()
    assert owners == sorted(owners) and all(0 <= owner < max(1, len(response)) for owner in owners)


@pytest.mark.parametrize("name", ["bytes", "bytes with a space"])
@fuzzed
@given(prompt=plain_texts, said=parts)
def test_words_that_are_no_control_tokens_are_encoded_as_a_tokenizer_without_these_would(name, prompt, said):
    # Byte by byte nothing of a text is lost, so that what is read can be written again.
    tokenizer, response = marked(name), "".join(text for text, _ in said)
    found = Reading.joined(tokenizer, prompt, response)
    assert (
        found.prompt + found.response
        == tokenizer(prompt + response, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    )
    space = tokenizer.decode(tokenizer("a", add_special_tokens=False)["input_ids"]) == " a"
    read = tokenizer.decode(found.prompt + found.response, clean_up_tokenization_spaces=False)
    assert read.removeprefix(" " * space) == (prompt + response).removeprefix(" " * space)


def test_a_word_of_one_token_of_the_policys_is_a_control_token_and_the_same_word_in_letters_is_not():
    policy, tokenizer = marked("policy"), marked("unigram")
    rollouts = make_rollouts([[BOS]], [spelled([("</think>", True), ("</think>", False), ("so", False)])])
    decoded = DecodedRollouts.of(rollouts, policy)
    assert decoded.responses == ["</think></think>so"]
    aligned = AlignedRollouts.of(decoded, tokenizer, framed=False, eos_token_id=None)
    think = tokenizer.convert_tokens_to_ids("</think>")
    assert real_ids(aligned.rollouts, 0)[1].count(think) == 1
    assert real_ids(aligned.rollouts, 0)[1][0] == think and int(aligned.policy_token[0, 0]) == 0


def test_a_control_word_across_the_prompts_end_is_text():
    tokenizer = marked("bytes")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer("so<|im_end|>", add_special_tokens=False)["input_ids"][-1] == end
    found = Reading.joined(tokenizer, "so<|im", "_end|>")
    assert end not in found.prompt + found.response
    # In the prompt alone it is what the tokenizer makes of it.
    assert Reading.joined(tokenizer, "so<|im_end|>", "<|im_end|>").prompt[-1] == end


def test_control_words_with_spaces_around_them_are_found_where_they_stand():
    tokenizer = copy.deepcopy(byte_tokenizer(290))
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<m>", lstrip=True, rstrip=True)]})
    mark = tokenizer.convert_tokens_to_ids("<m>")
    found = Reading.joined(tokenizer, "so <m> ", "it <m> is <m>", genuine=[(3, 6)])
    assert (found.prompt + found.response).count(mark) == 2
    assert tokenizer.decode(found.response).strip() == "it<m>is <m>"


def test_letters_for_private_use_in_a_text_forge_nothing():
    tokenizer = marked("bytes")
    control = control_tokens(tokenizer)
    response = "</s>" + "".join(chr(0xF0000 + place) * len(word) for place, word in enumerate(control.values()))
    found = Reading.joined(tokenizer, "so", response)
    assert not set(control) & set(found.response)
    assert tokenizer.decode(found.prompt + found.response) == "so" + response


def test_a_tokenizer_without_offsets_is_refused_by_name():
    class Slow:
        is_fast = False

    with pytest.raises(ConfigError, match=r"tokenizer Slow gives no character offsets\nload its fast version"):
        check_offsets(Slow())
