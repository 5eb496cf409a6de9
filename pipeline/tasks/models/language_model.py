"""A small language model of film reviews: byte-level tokenizer and Llama policy, trained in under two minutes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pipeline.tasks.models.build_progress import train_quietly
from pipeline.tasks.settings import ModelRecipe

SPECIAL_TOKENS = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}


def train_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a lower-casing byte-level BPE tokenizer; it adds no special tokens by itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str], max_tokens: int) -> list[list[int]]:
    """Return ``<s> text </s>`` as token ids, cut to ``max_tokens``; a cut text has no ``</s>``."""
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    wrapped = [[tokenizer.bos_token_id, *row, tokenizer.eos_token_id] for row in rows]
    return [row[:max_tokens] for row in wrapped]


def new_policy(recipe: ModelRecipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return a Llama of about one million parameters with tied embeddings, randomly initialised."""
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = policy_config(recipe, len(tokenizer), **special)
    torch.manual_seed(recipe.seed)
    return LlamaForCausalLM(config)


def policy_config(recipe: ModelRecipe, vocabulary: int, **special: int) -> LlamaConfig:
    """Return the config of a policy of a recipe's sizes over ``vocabulary`` tokens."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=256,
        initializer_range=0.05,
        tie_word_embeddings=True,
        **special,
    )


def fine_tune(
    recipe: ModelRecipe,
    tokenizer: PreTrainedTokenizerFast,
    rows: list[list[int]],
    scratch: Path,
    start: LlamaForCausalLM | None = None,
) -> LlamaForCausalLM:
    """Return the policy after supervised fine-tuning on ``rows`` with TRL's ``SFTTrainer``.

    The epochs are laid out beforehand as shuffled batches of rows of like length: no time goes into padding,
    and lengths come in random order (sorted runs, as ``group_by_length`` makes them, learn far more slowly).
    It begins with ``start``, which it changes, or with random weights.
    """
    from trl import SFTConfig, SFTTrainer

    class PlainLossTrainer(SFTTrainer):
        """SFT with the model's own loss: TRL's chunked one saves memory that 3,000 tokens do not need."""

        def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> torch.Tensor:
            ids, labels = inputs["input_ids"], inputs["labels"]
            loss: torch.Tensor = type(model).forward(model, input_ids=ids, labels=labels).loss
            return loss

    epochs = [
        index
        for epoch in range(recipe.policy_epochs)
        for batch in bucketed_batches([len(row) for row in rows], recipe.batch_size, recipe.seed + epoch)
        for index in batch
    ]

    options: dict[str, Any] = {
        "output_dir": str(scratch),
        "num_train_epochs": 1,
        "per_device_train_batch_size": recipe.batch_size,
        "learning_rate": recipe.policy_learning_rate,
        "lr_scheduler_type": "cosine",
        "weight_decay": 0.01,
        "warmup_steps": 20,
        "train_sampling_strategy": "sequential",
        "max_length": None,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "activation_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "seed": recipe.seed,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "log_level": "error",
    }
    trainer = PlainLossTrainer(
        model=start or new_policy(recipe, tokenizer),
        args=SFTConfig(**options),
        train_dataset=Dataset.from_dict({"input_ids": [rows[index] for index in epochs]}),
        processing_class=tokenizer,
    )
    train_quietly(trainer, "the policy")
    model = trainer.model
    assert isinstance(model, LlamaForCausalLM)
    return model.eval()


def bucketed_batches(lengths: list[int], batch_size: int, seed: int) -> list[list[int]]:
    """Return full batches of indices of like length, in random order; a random remainder is left out."""
    chooser = random.Random(seed)
    order = list(range(len(lengths)))
    chooser.shuffle(order)
    order = sorted(order[: len(order) - len(order) % batch_size], key=lambda index: lengths[index])
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    chooser.shuffle(batches)
    return batches


@torch.inference_mode()
def loss_nats(model: LlamaForCausalLM, rows: list[list[int]], batch_size: int = 128) -> float:
    """Return the mean negative log-likelihood per token of ``rows``."""
    total, tokens = 0.0, 0
    for start in range(0, len(rows), batch_size):
        batch = [torch.tensor(row) for row in rows[start : start + batch_size]]
        ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
        labels = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=-100)
        count = int((labels[:, 1:] != -100).sum())
        total += float(model(input_ids=ids, labels=labels).loss) * count
        tokens += count
    return total / tokens
