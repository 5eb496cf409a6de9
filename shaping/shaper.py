"""From rollouts to token rewards: mixes closed credits as the shape says."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from shaping.closure import close
from shaping.credit import METHODS, Credit, ScoredBatch
from shaping.errors import ConfigError, ShapeError
from shaping.reward_model import RewardModel
from shaping.rollouts import Rollouts
from shaping.scoring import score_responses
from shaping.shape import Shape
from shaping.units import UnitSplitter


@dataclass(frozen=True)
class ShapedRewards:
    """Token rewards and what they were made of.

    Attributes:
        token_rewards: ``B x T``, reward-model units; each row sums to ``scores``, zero on padding.
        scores: ``B`` scores of the whole responses.
        credits: Each method's raw credit, for reports.
        forwarded_tokens: Reward-model tokens forwarded beyond scoring the batch once.
    """

    token_rewards: Tensor
    scores: Tensor
    credits: dict[str, Credit]
    forwarded_tokens: int


class Shaper:
    """Gives every token of a response its reward.

    Args:
        shape: Where the reward falls.
        reward_model: Scores responses, prefixes and coalitions.
        tokenizer: The tokenizer of the responses.
        seed: Seed of the sampling methods.

    Raises:
        ConfigError: The shape uses a method that the reward model cannot serve.
    """

    def __init__(self, shape: Shape, reward_model: RewardModel, tokenizer: object, seed: int = 0) -> None:
        for name in shape.active_methods():
            missing = METHODS[name].needs - reward_model.abilities
            if missing:
                raise ConfigError(
                    f"weights.{name}: the reward model {type(reward_model).__name__} gives no {', '.join(missing)}",
                    f"set the weight of {name} to 0, or use a causal reward model",
                )
        self.shape = shape
        self._reward_model = reward_model
        self._splitter = UnitSplitter(tokenizer)
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, rollouts: Rollouts, adjustment: Tensor | None = None) -> ShapedRewards:
        """Return the token rewards of a batch.

        Args:
            rollouts: Prompts and responses.
            adjustment: A ``B`` tensor added to the scores before shaping, such as a missing-EOS penalty: part
                of the total under every shape.
        """
        batch = self._scored(rollouts, adjustment)
        active = self.shape.active_methods()
        credits = {name: METHODS[name].credit(batch) for name in active}
        rewards = torch.zeros(rollouts.response_ids.shape, device=batch.scores.device)
        for name, share in active.items():
            rewards = rewards + share * close(credits[name].values, batch.scores, rollouts, self.shape.closure)
        tokens = sum(credit.forwarded_tokens for credit in credits.values())
        return ShapedRewards(rewards, batch.scores, credits, tokens)

    def _scored(self, rollouts: Rollouts, adjustment: Tensor | None) -> ScoredBatch:
        prefixes = None
        if "prefix" in self._reward_model.abilities:
            prefixes = self._reward_model.prefix_scores(rollouts)
        # The clone is an ordinary tensor, which may take part in anybody's backward pass.
        scores = (score_responses(self._reward_model, rollouts) if prefixes is None else prefixes[:, -1]).clone()
        if adjustment is not None:
            if adjustment.shape != scores.shape:
                raise ShapeError(f"adjustment must have one value a response, but got {tuple(adjustment.shape)}")
            scores = scores + adjustment
        shape = self.shape
        return ScoredBatch(
            rollouts=rollouts,
            scores=scores,
            prefix_scores=prefixes,
            unit_index=self._splitter.split(rollouts, shape.unit, shape.max_span, shape.max_units),
            unit=shape.unit,
            budget=shape.budget,
            reward_model=self._reward_model,
            generator=self._generator,
        )
