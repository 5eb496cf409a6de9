"""What an inner run needs to know of a task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from shaping.reward_models import CausalRewardModel


@dataclass(frozen=True)
class Prompts:
    """Prompts as ids and mask, ``n x P`` each, padded on the left."""

    ids: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return self.ids.shape[0]

    def select(self, rows: Tensor) -> Prompts:
        """Return the given rows."""
        return Prompts(self.ids[rows], self.mask[rows])


@dataclass(frozen=True)
class Task:
    """A task, loaded.

    Attributes:
        name: Its name.
        policy: The fine-tuned policy, which every run copies and none changes.
        tokenizer: The policy's tokenizer.
        reward_model: What the policy is trained on.
        gold_model: A second reward model, of other data, that no run is trained on.
        train_prompts: Prompts of the training batches.
        held_out_prompts: Prompts of the evaluation.
        quality: Measured quality of the models, by name.
    """

    name: str
    policy: PreTrainedModel
    tokenizer: Any
    reward_model: CausalRewardModel
    gold_model: CausalRewardModel
    train_prompts: Prompts
    held_out_prompts: Prompts
    quality: dict[str, float]
