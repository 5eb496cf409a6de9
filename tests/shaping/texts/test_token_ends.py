"""Where tokens end: windows say what decoding every prefix says, for every kind of decoder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from shaping.alignment import texts_of
from shaping.texts.token_ends import STRIDE, agreement, byte_tokens, prefix_by_prefix, token_ends
from tests.support.models.tiny_families import byte_tokenizer, roberta_tokenizer, unigram_tokenizer, word_tokenizer
from tests.support.models.tiny_models import tiny_tokenizer


def fallback_tokenizer() -> PreTrainedTokenizerFast:
    """Words with a mark for the space, bytes for what is no word, and no space before the first word: as Llama 2's."""
    words = ["▁", "▁the", "▁a", "s", "▁é", "lo", "▁▁"]
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {word: 256 + at for at, word in enumerate(words)}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=inner)


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "trained bytes": tiny_tokenizer,
    "bytes": byte_tokenizer,
    "bytes with a space": roberta_tokenizer,
    "words": word_tokenizer,
    "unigram": unigram_tokenizer,
    "words and bytes": fallback_tokenizer,
}


TEXT = "The film is moving, but its end — déjà vu 𝄞 — is dull; and a half is lost. "
# All other characters are bytes to it, and a run of bytes is read as one.
TEXTS = {"words and bytes": "▁the▁a𝄞s▁élo▁▁s▁the"}


def rows(tokenizer: Any) -> st.SearchStrategy[list[int]]:
    # Bytes of unfinished characters in a row, and words, are both likely.
    any_token, few = st.integers(0, len(tokenizer) - 1), st.sampled_from([0, 1, 2, len(tokenizer) - 1])
    spelled = st.text(alphabet="aé€𝄞 \n", min_size=1, max_size=8).map(
        lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
    )
    parts = st.one_of(any_token.map(lambda token: [token]), few.map(lambda token: [token] * 3), spelled)
    return st.lists(parts, max_size=40).map(lambda found: [token for part in found for token in part])


@pytest.mark.parametrize("name", TOKENIZERS)
def test_windows_say_what_every_prefix_says(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    decode, together = partial(texts_of, tokenizer), byte_tokens(tokenizer, len(tokenizer))
    assert bool(together) == (name == "words and bytes")

    @settings(deadline=None, max_examples=60)
    @given(rows(tokenizer), rows(tokenizer))
    def holds(prompt: list[int], response: list[int]) -> None:
        assert token_ends(decode, prompt, response, together) == prefix_by_prefix(decode, prompt, response)

    holds()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_long_responses_are_read_in_windows_alone(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    response = tokenizer(TEXTS.get(name, TEXT) * 90, add_special_tokens=False)["input_ids"][:1000]
    decoded = 0

    def decode(given: list[list[int]]) -> list[str]:
        nonlocal decoded
        decoded += sum(map(len, given))
        return texts_of(tokenizer, given)

    prompt = tokenizer("Once upon", add_special_tokens=False)["input_ids"]
    found = token_ends(decode, prompt, response, byte_tokens(tokenizer, len(tokenizer)))
    # The square of the length would be half a million tokens.
    assert decoded < 25 * len(response)
    assert found == prefix_by_prefix(partial(texts_of, tokenizer), prompt, response)


def test_a_decoder_that_looks_further_back_is_read_prefix_by_prefix() -> None:
    # The text of a row is its length and its tokens: no window's text is part of it.
    def decode(given: list[list[int]]) -> list[str]:
        return [f"{len(row)}:{row}" for row in given]

    prompt, response = [1, 2], list(range(3 * STRIDE))
    assert token_ends(decode, prompt, response) == prefix_by_prefix(decode, prompt, response)


@given(st.text(alphabet="ab", max_size=9), st.text(alphabet="ab", max_size=9))
def test_agreement_is_that_of_a_slow_loop(one: str, other: str) -> None:
    count = 0
    while count < min(len(one), len(other)) and one[count] == other[count]:
        count += 1
    assert agreement(one, other) == count
