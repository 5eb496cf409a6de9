"""The contract of a credit method: a scored batch in, ``B x T`` credit out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from shaping.reward_model import RewardModel
from shaping.rollouts import Rollouts
from shaping.scoring import Coalitions, CoalitionValues, score_coalitions


@dataclass(frozen=True)
class ScoredBatch:
    """Rollouts with their scores: what a credit method reads.

    Attributes:
        rollouts: The batch.
        scores: Reward-model score of each whole response: a ``B`` tensor.
        prefix_scores: ``B x (T + 1)`` scores along the response, where the reward model can give them.
        unit_index: ``B x T`` unit of each token, -1 where there is none.
        unit: Name of the unit.
        budget: Coalitions that a sampling method may score for one response.
        reward_model: Scores coalitions.
        generator: Source of every random choice of a method.
    """

    rollouts: Rollouts
    scores: Tensor
    prefix_scores: Tensor | None
    unit_index: Tensor
    unit: str
    budget: int
    reward_model: RewardModel
    generator: torch.Generator

    def play(self, plan: list[Coalitions]) -> CoalitionValues:
        """Return the scores of the planned coalitions, all groups in one go."""
        return score_coalitions(self.reward_model, self.rollouts, self.unit_index, plan)


@dataclass(frozen=True)
class Credit:
    """What a method found.

    Attributes:
        values: ``B x T`` raw credit in reward-model units, zero on padding; closure makes it sum to the score.
        unit: ``token``, ``span``, ``sentence`` or ``response``.
        standard_error: ``B x T`` standard error of ``values`` where the method samples, else ``None``.
        coalitions: Coalitions scored for the batch.
        forwarded_tokens: Reward-model tokens forwarded for the batch, beyond scoring it once.
    """

    values: Tensor
    unit: str
    standard_error: Tensor | None = field(default=None)
    coalitions: int = 0
    forwarded_tokens: int = 0


@dataclass(frozen=True)
class CreditMethod:
    """A credit method as the registry knows it.

    Attributes:
        name: Its name in configs.
        credit: Computes the credit of a batch.
        causal: Whether a token's credit depends on nothing after the token.
        needs: What the reward model must be able to do (``prefix``, ``attention``), beyond scoring rows.
        sums_to_score: Whether raw credit already sums to the score, so that closure has nothing to add.
        by_units: Whether credit depends on the units and the budget.
    """

    name: str
    credit: Callable[[ScoredBatch], Credit]
    causal: bool
    needs: frozenset[str] = frozenset()
    sums_to_score: bool = False
    by_units: bool = False
