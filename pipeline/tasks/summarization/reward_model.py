"""A reward model of summaries, trained on pairs (Bradley-Terry) and right at every prefix."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, Trainer

from pipeline.tasks.models.build_progress import train_quietly
from pipeline.tasks.models.language_model import bucketed_batches
from pipeline.tasks.models.reward_model import (
    LARGEST_DELETED_SHARE,
    THINNED_SHARE,
    classifier_config,
    reward_arguments,
)
from pipeline.tasks.settings import ModelRecipe
from pipeline.tasks.summarization.examples import KINDS, SummaryPair
from shaping.reward_models import CausalRewardModel
from shaping.rollouts import Rollouts

# The one prefix that better and truncated responses share says nothing of either before the end.
TRUNCATED = KINDS.index("truncated") + 1
RESPONSES = 1 + len(KINDS)


def new_reward_model(policy: LlamaForCausalLM, layers: int, frozen_layers: int = 0) -> LlamaForSequenceClassification:
    """Return a classifier of the policy's first ``layers`` layers and a head of zeros; the lowest may be frozen."""
    config = classifier_config(policy)
    config.num_hidden_layers = layers
    model = LlamaForSequenceClassification(config)
    # What the policy has beyond these layers is left out.
    model.model.load_state_dict(policy.model.state_dict(), strict=False)
    torch.nn.init.zeros_(model.score.weight)
    if frozen_layers:
        model.model.embed_tokens.requires_grad_(False)
        for layer in model.model.layers[:frozen_layers]:
            layer.requires_grad_(False)
    return model


def train_on_comparisons(
    recipe: ModelRecipe, model: LlamaForSequenceClassification, chosen: Sequence[SummaryPair], scratch: Path
) -> None:
    """Train the model on every comparison once, with Bradley-Terry at the end and a cross-entropy at every prefix."""
    torch.manual_seed(recipe.seed)
    lengths = [len(each.prompt) + max(len(row) for row in (each.better, *each.worse)) for each in chosen]
    size = max(1, recipe.batch_size // RESPONSES)
    order = [index for batch in bucketed_batches(lengths, size, recipe.seed) for index in batch]
    rows = {
        "prompt": [chosen[index].prompt for index in order],
        "responses": [[chosen[index].better, *chosen[index].worse] for index in order],
    }
    arguments = reward_arguments(recipe, scratch)
    arguments.per_device_train_batch_size = size
    trainer = _ComparisonTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict(rows), data_collator=_Collator(recipe.seed)
    )
    model.train()
    train_quietly(trainer, "a reward model")
    model.eval()


class _Collator:
    """Pads a batch of comparisons, after deleting random tokens from the responses of some of them.

    Coalitions of Shapley values and LIME are then texts of a kind that the reward model has seen.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Tensor]:
        rows, prompts = [], []
        for feature in features:
            thinned = self._random.random() < THINNED_SHARE
            share = self._random.random() * LARGEST_DELETED_SHARE if thinned else 0.0
            for response in feature["responses"]:
                rows.append(torch.tensor(feature["prompt"] + self._thinned(response, share)))
                prompts.append(len(feature["prompt"]))
        return {
            "input_ids": pad_sequence(rows, batch_first=True),
            "lengths": torch.tensor([len(row) for row in rows]),
            "prompts": torch.tensor(prompts),
        }

    def _thinned(self, response: list[int], share: float) -> list[int]:
        return [token for token in response[:-1] if self._random.random() >= share] + response[-1:]


class _ComparisonTrainer(Trainer):
    """The Hugging Face trainer with the loss of comparisons."""

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any) -> Any:
        hidden = model.model(input_ids=inputs["input_ids"]).last_hidden_state
        scores = model.score(hidden).squeeze(-1)
        loss = comparison_loss(scores, inputs["prompts"], inputs["lengths"])
        return (loss, {"scores": scores}) if return_outputs else loss


def comparison_loss(scores: Tensor, prompts: Tensor, lengths: Tensor) -> Tensor:
    """Return the mean of a Bradley-Terry loss at the end and of a cross-entropy at every prefix of the responses.

    Args:
        scores: ``R x L``, after each token; rows are ``RESPONSES`` in turn of each comparison, the better one first.
        prompts: Tokens of each row's prompt: ``R``.
        lengths: Tokens of each row: ``R``.
    """
    rows, places = torch.arange(len(scores)), torch.arange(scores.shape[1])
    last = scores[rows, lengths - 1].view(-1, RESPONSES)
    bradley_terry = -logsigmoid(last[:, :1] - last[:, 1:]).mean()
    kind = rows % RESPONSES
    first = torch.where(kind == TRUNCATED, lengths - 1, prompts - 1)
    counted = (places >= first[:, None]) & (places < lengths[:, None])
    better = (kind == 0).float()[:, None].expand_as(scores)
    # Worse responses are more: weighed so that a prompt alone is undecided.
    weight = torch.where(kind == 0, float(RESPONSES - 2), 1.0)[:, None] * counted
    every = binary_cross_entropy_with_logits(scores, better, reduction="none")
    return 0.5 * bradley_terry + 0.5 * (every * weight).sum() / weight.sum()


@torch.inference_mode()
def comparison_quality(reward_model: CausalRewardModel, chosen: Sequence[SummaryPair]) -> dict[str, float]:
    """Return for each kind of worse response how often the better one scores higher, and their mean.

    Half of what scores alike counts as right.
    """
    prompts = [each.prompt for each in chosen for _ in range(RESPONSES)]
    responses = [response for each in chosen for response in (each.better, *each.worse)]
    scores = reward_model.prefix_scores(Rollouts.of_ids(prompts, responses))[:, -1].view(-1, RESPONSES)
    right = (scores[:, :1] > scores[:, 1:]).float() + 0.5 * (scores[:, :1] == scores[:, 1:]).float()
    quality = {f"accuracy_{kind}": float(right[:, place].mean()) for place, kind in enumerate(KINDS)}
    return {"pair_accuracy": float(right.mean()), **quality}
