"""What the shaper and the credit methods ask of a reward model."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from shaping.errors import ConfigError, ShapeError
from shaping.reward_models.positions import vocabulary_size
from shaping.rollouts import Rollouts
from shaping.variants import Variants

# Where a forward pass is fastest: on a CPU larger ones leave its caches, on a GPU smaller ones leave it idle.
MAX_TOKENS_ON_CPU = 2_048
MAX_TOKENS_ON_GPU = 32_768
# A pass is one long row by then, whatever its bound.
LEAST_TOKENS = 64


@dataclass(frozen=True)
class VariantScores:
    """Scores of variants, and what they cost.

    Attributes:
        values: ``R`` scores, reward-model units.
        forwarded_tokens: Tokens forwarded, padding included; 0 where the reward model has no tokens.
    """

    values: Tensor
    forwarded_tokens: int


class RewardModel(Protocol):
    """A reward model that sees responses as the policy's tokens.

    Attributes:
        name: What it is called in messages.
        abilities: What it can do beyond scoring: ``prefix`` (a score at every token in one pass), ``attention``,
            ``gradient``, ``sharing`` (prompts and prefixes of variants are forwarded once), ``absent_mask`` and
            ``absent_attention`` (absent tokens can be masked, or hidden with all others where they are).
        added_tokens: Tokens that it adds to every variant, such as end-of-sequence.
        layers: Layers whose attention can be read.
    """

    name: str
    added_tokens: int
    layers: int

    @property
    def abilities(self) -> Set[str]:
        """What it can do beyond scoring."""
        ...

    def score(self, variants: Variants) -> VariantScores:
        """Return the score of every variant."""
        ...

    def prefix_scores(self, rollouts: Rollouts) -> Tensor:
        """Return ``B x (T + 1)`` scores after the prompt and after each token; padding repeats the last one."""
        ...

    def response_attention(self, rollouts: Rollouts, layer: int = -1, heads: str = "mean") -> Tensor:
        """Return ``B x T`` attention from where the score is read to the response, each row summing to 1."""
        ...

    def integrated_gradients(self, rollouts: Rollouts, absent: Tensor, steps: int) -> Tensor:
        """Return ``B x T`` integrated gradients of the score on the embeddings of the tokens in ``absent``."""
        ...


class BoundedPasses:
    """Bounds the forward passes of a model: by what was asked for, or by what suits the device that it is on now.

    A model is often moved after it was made, so that the device's own bound is not kept.

    Args:
        model: The model.
        wanted: Tokens of one forward pass; ``None`` leaves them to the device.

    Raises:
        ConfigError: ``wanted`` is not at least 1.
    """

    def __init__(self, model: PreTrainedModel, wanted: int | None) -> None:
        if wanted is not None and (isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1):
            raise ConfigError(f"max_tokens_per_forward = {wanted!r} is not a whole number of at least 1")
        self._model, self._wanted = model, wanted

    @property
    def most_tokens(self) -> int:
        """Tokens of one forward pass."""
        if self._wanted is not None:
            return self._wanted
        return MAX_TOKENS_ON_CPU if self._model.device.type == "cpu" else MAX_TOKENS_ON_GPU

    def lower_to(self, most: int) -> None:
        """Forward no more than ``most`` tokens at once from now on."""
        self._wanted = min(most, self.most_tokens)

    def halve(self) -> bool:
        """Forward half as many tokens from now on; return whether that was possible."""
        if self.most_tokens <= LEAST_TOKENS:
            return False
        self.lower_to(max(LEAST_TOKENS, self.most_tokens // 2))
        return True


def find_mask_token(model: PreTrainedModel, wanted: int | None, usual: Iterable[int | None], name: str) -> int | None:
    """Return the token that stands for masked ones: what is wanted, else the first usual one that can, if any.

    Raises:
        ConfigError: ``wanted`` is not an id of the model's vocabulary.
    """
    size = vocabulary_size(model)
    known = math.inf if size is None else size
    if wanted is None:
        return next((token for token in usual if token is not None and 0 <= token < known), None)
    if isinstance(wanted, bool) or not isinstance(wanted, int) or not 0 <= wanted < known:
        remedy = "choose an id of its vocabulary" if size is None else f"choose an id from 0 to {size - 1}"
        raise ConfigError(f"mask_token_id = {wanted!r} is not a token of reward model {name}", remedy)
    return wanted


def check_absent(absent: str, abilities: Set[str], name: str) -> None:
    """Refuse to take tokens away in a way that a reward model does not know.

    Raises:
        ConfigError: The ability that ``absent`` asks for is not among its ``abilities``.
    """
    if absent == "delete" or f"absent_{absent}" in abilities:
        return
    if absent == "mask":
        raise ConfigError(
            f"absent = mask: the reward model {name} has no mask token",
            "give it one with mask_token_id (a function of texts: mask_text), or set absent to delete",
        )
    raise ConfigError(
        f"absent = {absent}: the reward model {name} cannot hide tokens and leave all others where they are",
        "set absent to delete or mask",
    )


def check_context(limit: int | None, longest: int, name: str) -> None:
    """Refuse sequences that a model has no positions for.

    Raises:
        ShapeError: The longest sequence exceeds the ``limit``.
    """
    if limit is not None and longest > limit:
        raise ShapeError(
            f"prompt and response have {longest} tokens, but reward model {name} has a context of {limit}",
            "shorten the prompts or the responses, or use a reward model with a longer context",
        )


def check_vocabulary(model: PreTrainedModel, rollouts: Rollouts, name: str) -> None:
    """Refuse tokens that the model has no embeddings for.

    Raises:
        ShapeError: An id is as large as the model's vocabulary or larger.
    """
    size = vocabulary_size(model)
    ids, real = rollouts.sequences()
    largest = int(torch.where(real, ids, 0).max()) if ids.numel() else 0
    if size is not None and largest >= size:
        raise ShapeError(
            f"token id {largest} is beyond the {size} tokens of reward model {name}",
            "wrap a reward model whose tokenizer is not the policy's in RetokenizedRewardModel",
        )


def weights_identity(model: PreTrainedModel, *scale: float) -> str:
    """Return a hash of the weights and of the scale: what an exported shape is bound to."""
    digest = hashlib.sha256(" ".join(repr(value) for value in scale).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
