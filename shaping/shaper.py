"""From rollouts to token rewards: mixes closed credits as the shape says."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from shaping.closure import close
from shaping.credit import METHODS, Credit, check_served, find_credits, score_batch
from shaping.reward_models import RewardModel
from shaping.rollouts import Rollouts
from shaping.scoring import score_responses
from shaping.shape import Shape
from shaping.turns import on_turn_ends
from shaping.units import UnitSplitter


@dataclass(frozen=True)
class ShapedRewards:
    """Token rewards and what they were made of.

    Attributes:
        token_rewards: ``B x T``, reward-model units; each row sums to ``scores``, zero where the policy wrote nothing.
        scores: ``B`` scores of the whole responses.
        credits: Each method's raw credit, for reports.
        forwarded_tokens: Reward-model tokens forwarded beyond scoring the batch once.
        coalitions: Coalitions that were scored for credit: what a reward that is no network costs.
    """

    token_rewards: Tensor
    scores: Tensor
    credits: dict[str, Credit]
    forwarded_tokens: int
    coalitions: int


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
        self._methods = {name: METHODS[name] for name in shape.active_methods()}
        check_served(self._methods.values(), reward_model, shape)
        self.shape = shape
        # Whether what was added to a score and what credit leaves of it go to different places.
        self._parts_with_additions = shape.closure == "first" and not all(
            method.sums_to_score for method in self._methods.values()
        )
        self._reward_model = reward_model
        self._units = UnitSplitter(tokenizer)
        self._generator = torch.Generator().manual_seed(seed)

    def generator_state(self) -> Tensor:
        """Return the state of the random choices of its methods, for a checkpoint."""
        return self._generator.get_state()

    def set_generator_state(self, state: Tensor) -> None:
        """Resume the random choices from a checkpoint."""
        self._generator.set_state(state)

    def scores(self, rollouts: Rollouts) -> Tensor:
        """Return what the reward model scores each response: a ``B`` tensor, what rewards sum to by default.

        Raises:
            TrialFailed: A score is not finite (``nan``).
        """
        return score_responses(self._reward_model, rollouts)

    def __call__(self, rollouts: Rollouts, scores: Tensor | None = None) -> Tensor:
        """Return the token rewards of a batch: ``B x T``, zero on all that the policy did not write.

        Args:
            rollouts: Prompts and responses.
            scores: What each response's rewards shall sum to: a ``B`` tensor in the reward model's units, such as a
                trainer's own scores with its penalties; by default the reward model's.

        Raises:
            ShapeError: ``scores`` is not one finite number a response.
            TrialFailed: The reward model gave a score that is not finite (``nan``).
        """
        return self.shaped(rollouts, scores).token_rewards

    def shaped(
        self, rollouts: Rollouts, scores: Tensor | None = None, adjustment: Tensor | None = None
    ) -> ShapedRewards:
        """Return the token rewards of a batch and what they were made of.

        Args:
            rollouts: Prompts and responses.
            scores: As of a call.
            adjustment: A ``B`` tensor added to the scores before shaping, such as a missing-EOS penalty: part
                of the total under every shape.

        Raises:
            ShapeError: ``scores`` or ``adjustment`` is not one number a response.
            TrialFailed: The reward model gave a score that is not finite (``nan``).
        """
        batch = score_batch(rollouts, self._reward_model, self._units, self.shape, self._generator, adjustment, scores)
        credits, own_scores = find_credits(batch, self._methods.values()), batch.own_scores
        if own_scores is None and self._parts_with_additions:
            own_scores = self.scores(rollouts)
        rewards = torch.zeros(rollouts.response_ids.shape, device=batch.scores.device)
        for name, share in self.shape.active_methods().items():
            # What sums to the score already has what was added to it.
            own = batch.scores if self._methods[name].sums_to_score else own_scores
            closed = close(credits[name].values, batch.scores, rollouts, self.shape.closure, own)
            rewards = rewards + share * closed
        if self.shape.unit == "turn":
            rewards = on_turn_ends(rewards, rollouts)
        tokens = sum(credit.forwarded_tokens for credit in credits.values())
        coalitions = sum(credit.coalitions for credit in credits.values())
        return ShapedRewards(rewards, batch.scores, credits, tokens, coalitions)
