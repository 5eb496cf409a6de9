"""Builders of tiny random reward models, one for each kind of architecture, and of tokenizers that differ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests.support.models.tiny_models import SPECIAL_TOKENS, tiny_tokenizer

# The fast path serves the first of these; the others need what it does not compute.
SHARING = ("Llama", "GPT2", "Qwen2", "Qwen3", "GPTNeoX", "Mistral")
NOT_SHARING = ("Bloom", "GPTJ", "Falcon", "Gemma2")

COMMON: dict[str, object] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
    # Wide weights: at the usual 0.02 a random model hardly depends on its input, and tests see nothing.
    "initializer_range": 0.4,
}
FAMILIES: dict[str, dict[str, object]] = {
    "Llama": {"intermediate_size": 32, "num_key_value_heads": 1},
    "GPT2": {"n_inner": 32},
    "Qwen2": {"intermediate_size": 32, "num_key_value_heads": 1},
    "Qwen3": {"intermediate_size": 32, "num_key_value_heads": 2, "head_dim": 8},
    "GPTNeoX": {"intermediate_size": 32},
    "Mistral": {"intermediate_size": 32, "num_key_value_heads": 1, "sliding_window": 400},
    "Bloom": {},
    "GPTJ": {"rotary_dim": 4},
    "Falcon": {},
    "Gemma2": {"intermediate_size": 32, "num_key_value_heads": 2, "head_dim": 8},
    "Gemma3Text": {"intermediate_size": 32, "num_key_value_heads": 2, "head_dim": 8},
    "Qwen2Moe": {
        "intermediate_size": 32,
        "num_key_value_heads": 2,
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "DistilBert": {"hidden_dim": 32},
    "Bert": {"intermediate_size": 32, "type_vocab_size": 2},
    "Roberta": {"intermediate_size": 32, "type_vocab_size": 1},
    "Camembert": {"intermediate_size": 32, "type_vocab_size": 1},
}


def tiny_family(name: str, vocabulary: int | None = None, seed: int = 1, **changes: object) -> PreTrainedModel:
    """Return a random sequence classifier of a family of the library, one label unless ``changes`` say otherwise."""
    torch.manual_seed(seed)
    options = {
        **COMMON,
        "vocab_size": vocabulary or len(tiny_tokenizer()),
        "num_labels": 1,
        "pad_token_id": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **FAMILIES[name],
        **changes,
    }
    config = getattr(transformers, f"{name}Config")(**options)
    model: PreTrainedModel = getattr(transformers, f"{name}ForSequenceClassification")(config)
    return model.eval()


@contextmanager
def forward_shapes(model: PreTrainedModel) -> Iterator[list[tuple[int, int]]]:
    """Record rows and width of every forward pass of the backbone."""
    shapes: list[tuple[int, int]] = []

    def record(module: torch.nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        given = [*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds")]
        tensor = next(each for each in given if isinstance(each, torch.Tensor))
        shapes.append((tensor.shape[0], tensor.shape[1]))

    hook = model.base_model.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield shapes
    finally:
        hook.remove()


UNICODE_CORPUS = [
    "the film was good, the plot was not; why?",
    "a great cast! the end was bad. i liked the film",
    "Bad acting, good music: a dull film. The cast was great",
    "naïve café, déjà vu; übermäßig schön",
    "日本語の映画は良い。中文電影很好。",
    "so good 😀😀 👍🏽 and 👩‍👩‍👧 too\nreally",
]
BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@lru_cache(maxsize=4)
def byte_tokenizer(vocabulary: int = 330, with_bos: bool = False) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer that changes no text: what is encoded is decoded again, byte for byte."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(UNICODE_CORPUS, trainer)
    if with_bos:
        bos = SPECIAL_TOKENS["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)


@lru_cache(maxsize=1)
def word_tokenizer() -> PreTrainedTokenizerFast:
    """Return a BERT-like WordPiece tokenizer: lowercases, drops accents and spaces, knows not every character."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=260, special_tokens=BERT_SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(UNICODE_CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    named = {f"{name[1:-1].lower()}_token": name for name in BERT_SPECIAL}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **named)


@lru_cache(maxsize=1)
def roberta_tokenizer() -> PreTrainedTokenizerFast:
    """Return a RoBERTa-like tokenizer: byte-level, two texts with two separators between them, padding id 1."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(UNICODE_CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


@lru_cache(maxsize=1)
def unigram_tokenizer() -> PreTrainedTokenizerFast:
    """Return a SentencePiece-like unigram tokenizer: NFKC, a mark for spaces and one before the text."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<pad>", "<s>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(UNICODE_CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **SPECIAL_TOKENS)
