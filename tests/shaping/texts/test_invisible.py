"""Which tokens a text shows: turns of well-known forms of chat templates are framing, thoughts and calls are not."""

import copy

import pytest

from shaping import UnitSplitter
from shaping.alignment import DecodedRollouts, texts_of
from shaping.texts.invisible import ends_of, invisible_tokens, set_ends, shown_tokens
from tests.support.models.tiny_families import byte_tokenizer
from tests.support.models.tiny_models import make_rollouts

SAID = ["<think>", "</think>", "<tool_call>", "[TOOL_CALLS]", "<|fim|>"]
TURNS = "{% for m in messages %}"
ASK = "{% if add_generation_prompt %}"
# For each form its template, and the special tokens with which it opens and closes turns.
FORMS = {
    "a role in words": (
        TURNS + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}" + ASK + "<|im_start|>assistant\n"
        "{% endif %}",
        ["<|im_start|>", "<|im_end|>"],
    ),
    "a role between two tokens": (
        "{{ bos_token }}" + TURNS + "<|header|>{{ m.role }}<|/header|>\n\n{{ m.content | trim }}<|eot|>{% endfor %}"
        "" + ASK + "<|header|>assistant<|/header|>\n\n{% endif %}",
        ["<|header|>", "<|/header|>", "<|eot|>"],
    ),
    "a token for each role": (
        TURNS + "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}" + ASK + "<|assistant|>\n<think>{% endif %}",
        ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>"],
    ),
    "two tokens for each role": (
        TURNS + "<|turn|><|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}" + ASK + "<|turn|><|assistant|>{% endif %}",
        ["<|turn|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"],
    ),
    "thoughts at the head of every answer": (
        TURNS + "{% if m.role == 'assistant' %}<|assistant|></think>{{ m.content }}</s>"
        "{% else %}<|user|>{{ m.content }}{% endif %}{% endfor %}" + ASK + "<|assistant|><think>\n{% endif %}",
        ["<|user|>", "<|assistant|>"],
    ),
    "thoughts behind words": (
        TURNS + "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}" + ASK + "<|im_start|>assistant\n<think>\n{% endif %}",
        ["<|im_start|>", "<|im_end|>"],
    ),
    "only the user's turn is marked": (
        TURNS + "{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% elif m.role == 'assistant' %}"
        "{{ m.content }}</s>{% else %}{{ raise_exception('roles alternate') }}{% endif %}{% endfor %}",
        ["[INST]", "[/INST]"],
    ),
    "thoughts at the head, right behind the user's turn": (
        TURNS + "{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% else %}<think></think>{{ m.content }}</s>"
        "{% endif %}{% endfor %}",
        ["[INST]", "[/INST]"],
    ),
    "what the tokens mean is explained first": (
        "<|im_start|>system\nThink in <think> and </think>, call with <tool_call>.\n"
        "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% set messages = messages[1:] %}{% endif %}"
        "<|im_end|>\n" + TURNS + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
        ["<|im_start|>", "<|im_end|>"],
    ),
    "words that are a pair": (
        TURNS + "<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}",
        ["<user>", "</user>", "<assistant>", "</assistant>", "<system>", "</system>"],
    ),
    "a template that takes one turn alone": (
        "{% if messages | length > 1 %}{{ raise_exception('one turn') }}{% endif %}"
        "<|user|>{{ messages[0].content }}<|end|>",
        ["<|user|>", "<|end|>"],
    ),
}


def speaker(template, special):
    tokenizer = copy.deepcopy(byte_tokenizer(330))
    tokenizer.add_special_tokens({"additional_special_tokens": [*special, *SAID]})
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("form", FORMS)
def test_what_opens_and_closes_turns_is_invisible_and_what_is_said_is_not(form):
    template, turns = FORMS[form]
    tokenizer = speaker(template, turns)
    framing = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}
    assert invisible_tokens(tokenizer) == framing | set(tokenizer.convert_tokens_to_ids(turns))
    assert shown_tokens(tokenizer) == set(tokenizer.convert_tokens_to_ids(SAID))
    said = "<think>so</think> good <tool_call>[TOOL_CALLS]<|fim|>"
    ids = tokenizer(turns[0] + said + turns[-1] + "</s>", add_special_tokens=False)["input_ids"]
    assert texts_of(tokenizer, [ids]) == [said]


def test_without_a_template_only_what_frames_texts_is_invisible():
    tokenizer = speaker(None, ["<|im_end|>"])
    assert invisible_tokens(tokenizer) == {0, 1, 2}
    ids = tokenizer("<s>a<|im_end|></s>", add_special_tokens=False)["input_ids"]
    assert texts_of(tokenizer, [ids, []]) == ["a<|im_end|>", ""]


def test_every_token_that_ends_a_response_is_invisible_and_finishes_it():
    tokenizer = speaker(None, ["<|eom|>", "<|eot|>"])
    eom, eot = tokenizer.convert_tokens_to_ids(["<|eom|>", "<|eot|>"])
    tokenizer.eos_token = "<|eot|>"
    set_ends(tokenizer, [eom])
    assert ends_of(tokenizer) == {eom, eot}
    # The end that the tokenizer's files name is no word of an answer's, but ends none.
    assert invisible_tokens(tokenizer) == {0, 1, 2, eom, eot}
    word = tokenizer("good", add_special_tokens=False)["input_ids"]
    decoded = DecodedRollouts.of(make_rollouts([[1]] * 4, [[*word, end] for end in (eom, eot, 2, word[-1])]), tokenizer)
    assert decoded.finished == [True, True, False, False]
    assert decoded.responses[:3] == ["good"] * 3


def test_special_tokens_that_are_said_are_units_and_those_of_turns_are_not():
    tokenizer = speaker(*FORMS["a role in words"])
    ids = tokenizer("so<think></think><|im_end|></s>", add_special_tokens=False)["input_ids"]
    units = UnitSplitter(tokenizer).split(make_rollouts([[1]], [ids]), "token", 8, 64)[0].tolist()
    assert units[-4:] == [units[-5] + 1, units[-5] + 2, -1, -1]


def test_places_of_added_tokens_are_those_of_their_words():
    tokenizer = speaker(*FORMS["a role in words"])
    ids = tokenizer("so <think>hm</think><|im_end|>", add_special_tokens=False)["input_ids"]
    (spelled,) = (tokenizer("<think>", add_special_tokens=False, split_special_tokens=True)["input_ids"],)
    decoded = DecodedRollouts.of(make_rollouts([[1]], [[*ids[:-1], *spelled, ids[-1]]]), tokenizer)
    (text,) = decoded.responses
    assert text == "so <think>hm</think><think>"
    assert [text[start:end] for start, end in decoded.added[0]] == ["<think>", "</think>"]
