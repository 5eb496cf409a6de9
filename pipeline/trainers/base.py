"""What a trainer is given and what it tells: task, job, responses. Imports neither torch nor transformers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shaping.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from shaping.reward_models import CausalRewardModel, RewardModel


@dataclass(frozen=True)
class Prompts:
    """Prompts as ids and mask, ``n x P`` each, padded on the left."""

    ids: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return self.ids.shape[0]

    @classmethod
    def of_ids(cls, rows: list[list[int]], device: Any = None) -> Prompts:
        """Return rows of ids, without padding, as prompts."""
        from shaping.rollouts import padded

        return cls(*padded(rows, left=True, device=device))

    def to_ids(self) -> list[list[int]]:
        """Return the ids of each prompt, without padding."""
        from shaping.rollouts import unpadded

        return unpadded(self.ids, self.mask)

    def select(self, rows: Tensor) -> Prompts:
        """Return the given rows, no wider than the longest of them."""
        ids, mask = self.ids[rows], self.mask[rows]
        first = int(mask.any(dim=0).int().argmax())
        return Prompts(ids[:, first:], mask[:, first:])


@dataclass(frozen=True)
class Task:
    """A task, loaded.

    Attributes:
        name: Its name.
        policy: The policy before training, which every run copies and none changes.
        tokenizer: The policy's tokenizer; its end-of-sequence is the token that ends a response.
        reward_model: What the policy is trained on.
        gold_model: A second reward model that no run is trained on; ``None`` where there is none.
        train_prompts: Prompts of the training batches.
        held_out_prompts: Prompts of the evaluation.
        quality: Measured quality of the models, by name; may be empty.
        notes: What a user should know of the prompts, such as how many were left out.
        more_end_token_ids: Tokens that end a response beside the tokenizer's end-of-sequence.
        original_tokenizer: The policy's tokenizer as it came; ``None`` where ``tokenizer`` still is.
        tokenizer_folder: Where the policy's tokenizer was read from; ``None`` for no folder of the user's.
    """

    name: str
    policy: PreTrainedModel
    tokenizer: Any
    reward_model: RewardModel
    gold_model: RewardModel | None
    train_prompts: Prompts
    held_out_prompts: Prompts
    quality: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    more_end_token_ids: tuple[int, ...] = ()
    original_tokenizer: Any = None
    tokenizer_folder: Path | None = None

    @property
    def eos_token_id(self) -> int:
        """Return the token that ends a response first of all; a chat model's is the end of its turn."""
        return int(self.tokenizer.eos_token_id)

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """Return every token that ends a response, the first of all in front."""
        return (self.eos_token_id, *self.more_end_token_ids)

    @property
    def critic_source(self) -> CausalRewardModel | None:
        """Return the reward model where a critic can start from it: it scores every prefix, in the policy's tokens.

        Its weights must be whole: of quantized ones no copy can be trained.
        """
        from shaping.reward_models import CausalRewardModel

        model = self.reward_model
        if not isinstance(model, CausalRewardModel) or is_quantized(model.model):
            return None
        return model if "prefix" in model.abilities else None

    @property
    def prompts_identity(self) -> str:
        """Return a hash of the prompts' tokens, of the training and held out, in their order."""
        rows = [self.train_prompts.to_ids(), self.held_out_prompts.to_ids()]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    @property
    def reward_identity(self) -> str:
        """Return what an exported shape is bound to: a hash of the reward model."""
        return _identity(self.reward_model)

    @property
    def reward_name_and_identity(self) -> tuple[str, str]:
        """Return the reward model's name, a file's without its folder, and its identity."""
        return Path(self.reward_model.name).name, self.reward_identity


@dataclass(frozen=True)
class Judge:
    """What scores the responses of a task, without the models that write them.

    Attributes:
        tokenizer: The policy's tokenizer; its end-of-sequence is the token that ends a response.
        reward_model: What the policy is trained on.
        prompt_ids: Token ids of the prompts that were asked for, made as the task makes its own.
        more_end_token_ids: Tokens that end a response beside the tokenizer's end-of-sequence.
    """

    tokenizer: Any
    reward_model: RewardModel
    prompt_ids: tuple[list[int], ...]
    more_end_token_ids: tuple[int, ...] = ()

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """Return every token that ends a response, the first of all in front."""
        return (int(self.tokenizer.eos_token_id), *self.more_end_token_ids)

    @property
    def reward_identity(self) -> str:
        """Return what an exported shape is bound to: a hash of the reward model."""
        return _identity(self.reward_model)


def _identity(reward_model: Any) -> str:
    # A reward model seen through another tokenizer is known by its own weights.
    return str(getattr(reward_model, "inner", reward_model).identity())


def is_quantized(model: PreTrainedModel) -> bool:
    """Return whether a model's weights are quantized: they stay where they were loaded, and cannot be trained."""
    return getattr(model.config, "quantization_config", None) is not None


def quiet_transformers() -> None:
    """Silence the loading bars and warnings of transformers, which would tear the study's own progress display."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


@dataclass(frozen=True)
class TrainingJob:
    """One run that a trainer is asked for.

    Attributes:
        arm: The arm's name.
        shape: What to train with.
        seed: Of everything random.
        steps: Training steps, ``ppo.steps`` of the config.
        first_step: The step to begin with, 0 where nothing was done: those before it were told by an attempt that
            broke off. A trainer that saves checkpoints may begin earlier; what it tells again counts.
        folder: The trial's, for checkpoints; kept from attempt to attempt.
        config: The study's whole config as plain values; ``trainer.options`` are the user's own.
    """

    arm: str
    shape: Shape
    seed: int
    steps: int
    first_step: int
    folder: Path
    config: dict[str, Any]


@dataclass(frozen=True)
class SampleText:
    """One held-out prompt with the trained policy's response, saved word for word."""

    prompt: str
    response: str
    prompt_ids: list[int]
    response_ids: list[int]
    score: float

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SampleText:
        """Return the text of its plain values."""
        prompt_ids, response_ids = ([int(token) for token in values[f"{part}_ids"]] for part in ("prompt", "response"))
        return cls(str(values["prompt"]), str(values["response"]), prompt_ids, response_ids, float(values["score"]))
