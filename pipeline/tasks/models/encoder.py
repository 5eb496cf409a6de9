"""An encoder as reward model of sentiment: reads both ways, whole responses, and is right at every prefix as a text.

What reads both ways has one score for a row: a prefix's score is that of the prefix alone. It is therefore trained on
every review twice at once, whole and cut after a random token; nothing else would tell it what half a review is worth.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import DistilBertConfig, DistilBertForSequenceClassification, Trainer

from pipeline.tasks.models.build_progress import train_quietly
from pipeline.tasks.models.reward_model import DeletingCollator, bradley_terry, laid_out, reward_arguments
from pipeline.tasks.settings import ModelRecipe

# It starts from nothing, where the causal model starts as the policy: more passes for each of that model's.
PASSES = 4
LEARNING_RATE_SHARE = 0.5
WARMUP_SHARE = 0.05
CONTEXT_TOKENS = 256


def train_encoder(
    recipe: ModelRecipe, tokenizer: Any, rows: list[list[int]], fresh: list[bool], targets: list[float], scratch: Path
) -> DistilBertForSequenceClassification:
    """Return a small DistilBERT that scores freshness as a logit, read at the first token of a row.

    Args:
        recipe: Sizes and settings of the training; passes and learning rate in proportion to the causal model's.
        tokenizer: Of the rows.
        rows: ``<s> review </s>``.
        fresh: Their labels, which pairs follow.
        targets: Soft targets in [0, 1], which cross-entropies follow.
        scratch: A folder for the trainer.
    """
    torch.manual_seed(recipe.seed)
    special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    model = DistilBertForSequenceClassification(encoder_config(recipe, len(tokenizer), **special))
    arguments = reward_arguments(recipe, scratch)
    arguments.learning_rate = recipe.reward_learning_rate * LEARNING_RATE_SHARE
    arguments.warmup_steps = WARMUP_SHARE
    trainer = _EncoderTrainer(
        model=model,
        args=arguments,
        train_dataset=laid_out(recipe, recipe.reward_epochs * PASSES, rows, fresh, targets),
        data_collator=_CuttingCollator(recipe.seed),
    )
    train_quietly(trainer, "the encoder")
    return model.eval()


def encoder_config(recipe: ModelRecipe, vocabulary: int, **special: int) -> DistilBertConfig:
    """Return the config of an encoder of the policy's sizes, over its ``vocabulary``."""
    return DistilBertConfig(
        vocab_size=vocabulary,
        dim=recipe.hidden_size,
        hidden_dim=recipe.intermediate_size,
        n_layers=recipe.layers,
        n_heads=recipe.heads,
        max_position_embeddings=CONTEXT_TOKENS,
        num_labels=1,
        initializer_range=0.05,
        **special,
    )


class _CuttingCollator(DeletingCollator):
    """Adds to each row, tokens deleted, the number of its first tokens that are read once more."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._cuts = random.Random(seed)

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Return the batch, and for each row the tokens of its cut copy."""
        batch = super().__call__(features)
        cuts = [self._cuts.randint(1, length) for length in batch["lengths"].tolist()]
        return {**batch, "cuts": torch.tensor(cuts)}


class _EncoderTrainer(Trainer):
    """The Hugging Face trainer with the loss of whole rows and cut ones."""

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any) -> Any:
        ids = inputs["input_ids"].repeat(2, 1)
        seen = torch.cat([inputs["lengths"], inputs["cuts"]])[:, None]
        mask = torch.arange(ids.shape[1], device=ids.device) < seen
        scores = model(input_ids=ids, attention_mask=mask.long()).logits.squeeze(-1)
        whole, cut = scores.chunk(2)
        loss = encoder_loss(whole, cut, inputs["fresh"], inputs["targets"])
        return (loss, {"scores": whole}) if return_outputs else loss


def encoder_loss(whole: Tensor, cut: Tensor, fresh: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of the scores of whole and of cut rows, given labels and soft targets: ``B`` each.

    A quarter each for whole rows' cross-entropy and for Bradley-Terry over their fresh/rotten pairs, a half for the
    cross-entropy of cut rows: the causal model's weights.
    """
    ends = binary_cross_entropy_with_logits(whole, targets)
    prefixes = binary_cross_entropy_with_logits(cut, targets)
    return 0.25 * ends + 0.25 * bradley_terry(whole, fresh) + 0.5 * prefixes
