"""Reward models of another tokenizer than the policy's."""

from functools import lru_cache

from shaping import CausalRewardModel, RetokenizedRewardModel
from tests.support.models.tiny_families import (
    byte_tokenizer,
    roberta_tokenizer,
    tiny_family,
    unigram_tokenizer,
    word_tokenizer,
)

REWARD_TOKENIZERS = {
    "bytes": lambda: byte_tokenizer(290),
    "bytes with a space": roberta_tokenizer,
    "words": word_tokenizer,
    "unigram": unigram_tokenizer,
}


@lru_cache(maxsize=16)
def inner_model(name):
    return CausalRewardModel(tiny_family("Llama", len(REWARD_TOKENIZERS[name]())), 0.3, 0.7, name)


def reward_model(name, inner=None, **options):
    return RetokenizedRewardModel(inner or inner_model(name), REWARD_TOKENIZERS[name](), byte_tokenizer(), **options)
