"""The policy with its critic: log-probabilities and values of sampled tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from shaping.rollouts import Rollouts, model_inputs


@dataclass(frozen=True)
class TokenOutputs:
    """What the actor says of a batch: ``B x T`` each.

    Attributes:
        log_probs: Log-probability, in nats, of each sampled token.
        values: Value of the state before each token; zeros from a reference policy.
        entropy: Entropy of each token's distribution, in nats, without gradient.
    """

    log_probs: Tensor
    values: Tensor
    entropy: Tensor


class ValueHead(nn.Module):
    """A linear value on the policy's hidden states; starts at zero, so that it starts unbiased."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return ``B x T`` values of ``B x T x H`` hidden states."""
        value: Tensor = self.linear(hidden).squeeze(-1)
        return value


class RewardCritic(nn.Module):
    """A critic that starts as the reward model: the value of a state is the score of its prefix."""

    def __init__(self, model: PreTrainedModel, mean: float, deviation: float) -> None:
        super().__init__()
        self.model, self.mean, self.deviation = model, mean, deviation

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return values at every position of the inputs: ``B x (P + T)``."""
        hidden = self.model.base_model(**inputs).last_hidden_state
        head: Any = self.model.score
        raw: Tensor = head(hidden).squeeze(-1)
        return (raw - self.mean) / self.deviation


class Actor(nn.Module):
    """A policy and, where it is trained, its critic.

    Args:
        policy: A causal language model with ``lm_head``.
        critic: A value head on the policy's trunk, a critic of its own, or nothing for a reference policy.
        banned_token: A token that is never sampled; its probability is zero.
        temperature: The sampling temperature.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        critic: ValueHead | RewardCritic | None,
        banned_token: int | None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.policy, self.critic = policy, critic
        self._banned, self._temperature = banned_token, temperature

    def forward(self, rollouts: Rollouts) -> TokenOutputs:
        """Return log-probabilities, values and entropies of the sampled tokens; prompts get no logits."""
        inputs = model_inputs(rollouts)
        hidden = self.policy.base_model(**inputs).last_hidden_state
        before = slice(rollouts.prompt_ids.shape[1] - 1, -1)
        states = hidden[:, before]
        lm_head: Any = self.policy.get_output_embeddings()
        logits = lm_head(states).float() / self._temperature
        if self._banned is not None:
            logits[..., self._banned] = torch.finfo(logits.dtype).min
        normalizer = logits.logsumexp(dim=-1)
        log_probs = logits.gather(2, rollouts.response_ids[:, :, None]).squeeze(2) - normalizer
        with torch.no_grad():
            entropy = normalizer - (torch.softmax(logits, dim=-1) * logits).sum(dim=-1)
        return TokenOutputs(log_probs, self._values(states, inputs, before), entropy)

    def _values(self, states: Tensor, inputs: dict[str, Tensor], before: slice) -> Tensor:
        if self.critic is None:
            return torch.zeros(states.shape[:2], device=states.device)
        if isinstance(self.critic, ValueHead):
            values: Tensor = self.critic(states)
        else:
            values = self.critic(inputs)[:, before]
        return values.float()
