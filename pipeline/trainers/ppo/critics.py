"""Critics: what estimates the value of the state before each token.

Each maps the policy's hidden states before the tokens (``B x T x H``), the model's inputs and the positions of those
states among the inputs to ``B x T`` values.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.trainers.ppo.policy import in_float32
from shaping.reward_models import CausalRewardModel


class ValueHead(nn.Module):
    """A linear value on the policy's hidden states; starts at zero, so that it starts unbiased."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, states: Tensor, inputs: dict[str, Tensor], before: slice) -> Tensor:
        """Return the values of the states."""
        value: Tensor = self.linear(states).squeeze(-1)
        return value


class NetworkCritic(nn.Module):
    """A network of its own, which starts as the policy's trunk with a value head of zeros."""

    def __init__(self, policy: PreTrainedModel) -> None:
        super().__init__()
        self.trunk = in_float32(copy.deepcopy(policy.base_model)).requires_grad_(True)
        self.head = ValueHead(policy.config.get_text_config().hidden_size)

    def forward(self, states: Tensor, inputs: dict[str, Tensor], before: slice) -> Tensor:
        """Return the values of the inputs' own states."""
        own = self.trunk(**inputs, use_cache=False).last_hidden_state[:, before]
        value: Tensor = self.head(own, inputs, before)
        return value


class RewardCritic(nn.Module):
    """A critic that starts as the reward model: the value of a state is the score of its prefix."""

    def __init__(self, model: PreTrainedModel, mean: float, deviation: float) -> None:
        super().__init__()
        self.model, self.mean, self.deviation = model, mean, deviation

    @classmethod
    def of(cls, source: CausalRewardModel) -> RewardCritic:
        """Return a critic that starts as a copy of ``source``."""
        return cls(in_float32(copy.deepcopy(source.model)).requires_grad_(True), source.mean, source.deviation)

    def forward(self, states: Tensor, inputs: dict[str, Tensor], before: slice) -> Tensor:
        """Return the values of the inputs, in reward-model units."""
        own = self.model.base_model(**inputs, use_cache=False).last_hidden_state[:, before]
        head: Any = self.model.score
        raw: Tensor = head(own).squeeze(-1)
        return (raw - self.mean) / self.deviation
