"""A reward model of sentiment, trained to be right at every prefix and on texts with words missing."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, Trainer, TrainingArguments

from pipeline.tasks.models.build_progress import train_quietly
from pipeline.tasks.models.calibration import correlation
from pipeline.tasks.models.language_model import bucketed_batches
from pipeline.tasks.settings import ModelRecipe, Recipe

# Some training rows lose part of their tokens, so that the coalitions of Shapley values and LIME, which delete
# units, are texts of a kind the reward model has seen. More than this costs accuracy on whole texts.
THINNED_SHARE = 0.15
LARGEST_DELETED_SHARE = 0.6


def train_reward_model(
    recipe: Recipe,
    policy: LlamaForCausalLM,
    rows: list[list[int]],
    fresh: list[bool],
    targets: list[float],
    scratch: Path,
) -> LlamaForSequenceClassification:
    """Return a sequence classifier that starts from the policy's weights and scores freshness as a logit.

    The loss has three parts: binary cross-entropy at the last token, Bradley-Terry over every fresh/rotten
    pair of the batch (a quarter each), and binary cross-entropy at every prefix (a half). Pairs follow the labels
    ``fresh``; cross-entropies follow ``targets`` in [0, 1].
    """
    torch.manual_seed(recipe.seed)
    model = LlamaForSequenceClassification(classifier_config(policy))
    model.model.load_state_dict(policy.model.state_dict())
    torch.nn.init.zeros_(model.score.weight)
    trainer = _PrefixRewardTrainer(
        model=model,
        args=reward_arguments(recipe, scratch),
        train_dataset=laid_out(recipe, recipe.reward_epochs, rows, fresh, targets),
        data_collator=DeletingCollator(recipe.seed),
    )
    train_quietly(trainer, "a reward model")
    return model.eval()


def laid_out(
    recipe: ModelRecipe, epochs: int, rows: list[list[int]], fresh: list[bool], targets: list[float]
) -> Dataset:
    """Return ``epochs`` passes over the rows in the order of their batches: one pass over what is returned."""
    lengths = [len(row) for row in rows]
    order = [
        index
        for epoch in range(epochs)
        for batch in bucketed_batches(lengths, recipe.batch_size, recipe.seed + epoch)
        for index in batch
    ]
    rows_in_order = {
        "input_ids": [rows[i] for i in order],
        "fresh": [fresh[i] for i in order],
        "target": [targets[i] for i in order],
    }
    return Dataset.from_dict(rows_in_order)


def reward_arguments(recipe: ModelRecipe, scratch: Path) -> TrainingArguments:
    """Return the arguments of one pass over batches that are laid out beforehand, on the CPU and without a word."""
    return TrainingArguments(
        output_dir=str(scratch),
        num_train_epochs=1,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.reward_learning_rate,
        lr_scheduler_type="cosine",
        weight_decay=0.01,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        use_cpu=True,
        seed=recipe.seed,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        log_level="error",
    )


def classifier_config(policy: LlamaForCausalLM) -> Any:
    """Return the config of a classifier with one label on the policy's layers."""
    config = type(policy.config).from_dict(policy.config.to_dict())
    config.num_labels = 1
    return config


class DeletingCollator:
    """Pads a batch on the right after deleting random tokens from half of its rows; the first token stays."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Return ids (``B x L``), and for each row its tokens, its label and its soft target."""
        rows = [torch.tensor(self._thinned(feature["input_ids"])) for feature in features]
        return {
            "input_ids": pad_sequence(rows, batch_first=True),
            "lengths": torch.tensor([len(row) for row in rows]),
            "fresh": torch.tensor([bool(feature["fresh"]) for feature in features]),
            "targets": torch.tensor([float(feature["target"]) for feature in features]),
        }

    def _thinned(self, row: list[int]) -> list[int]:
        if self._random.random() >= THINNED_SHARE:
            return row
        share = self._random.random() * LARGEST_DELETED_SHARE
        return [token for place, token in enumerate(row) if place == 0 or self._random.random() >= share]


class _PrefixRewardTrainer(Trainer):
    """The Hugging Face trainer with the three-part loss."""

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any) -> Any:
        hidden = model.model(input_ids=inputs["input_ids"]).last_hidden_state
        scores = model.score(hidden).squeeze(-1)
        loss = prefix_reward_loss(scores, inputs["lengths"], inputs["fresh"], inputs["targets"])
        return (loss, {"scores": scores}) if return_outputs else loss


def prefix_reward_loss(scores: Tensor, lengths: Tensor, fresh: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of ``B x L`` scores given row lengths, labels (boolean) and soft targets (``B`` each)."""
    rows = torch.arange(len(scores), device=scores.device)
    last = scores[rows, lengths - 1]
    real = torch.arange(scores.shape[1], device=scores.device)[None] < lengths[:, None]
    every = binary_cross_entropy_with_logits(scores, targets[:, None].expand_as(scores), reduction="none")
    prefixes = (every * real).sum() / real.sum()
    return 0.25 * binary_cross_entropy_with_logits(last, targets) + 0.25 * bradley_terry(last, fresh) + 0.5 * prefixes


def bradley_terry(scores: Tensor, fresh: Tensor) -> Tensor:
    """Return the Bradley-Terry loss over every fresh/rotten pair of ``B`` scores; 0 where there is none."""
    pairs = scores[fresh][:, None] - scores[~fresh][None, :]
    return -logsigmoid(pairs).mean() if pairs.numel() else scores.sum() * 0


@torch.inference_mode()
def reward_quality(model: LlamaForSequenceClassification, rows: list[list[int]], fresh: list[bool]) -> dict[str, float]:
    """Return held-out ``accuracy``, ``pair_accuracy`` and ``prefix_correlation_N`` after ``N`` tokens of text.

    The correlation is between the score after ``N`` tokens and the final score, over texts longer than that.
    """
    every: list[Tensor] = []
    for start in range(0, len(rows), 128):
        batch = [torch.tensor(row) for row in rows[start : start + 128]]
        ids = pad_sequence(batch, batch_first=True)
        scores = model.score(model.model(input_ids=ids).last_hidden_state).squeeze(-1)
        every += [scores[place, : len(row)] for place, row in enumerate(batch)]
    final = torch.stack([row[-1] for row in every])
    quality = label_quality(final, fresh)
    for tokens in (6, 10, 14, 18, 24):
        longer = [index for index, row in enumerate(every) if len(row) > tokens + 1]
        early = torch.stack([every[index][tokens] for index in longer])
        quality[f"prefix_correlation_{tokens}"] = correlation(early, final[longer])
    return quality


def label_quality(scores: Tensor, fresh: list[bool]) -> dict[str, float]:
    """Return ``accuracy`` and ``pair_accuracy`` of raw scores, whose sign tells fresh from rotten."""
    label = torch.tensor(fresh)
    pairs = scores[label][:, None] > scores[~label][None, :]
    return {"accuracy": _mean((scores > 0) == label), "pair_accuracy": _mean(pairs)}


def _mean(values: Tensor) -> float:
    return float(values.float().mean())
