"""The policy with its critic: log-probabilities and values of sampled tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from pipeline.trainers.ppo.log_probs import TokenHead, TokenIds
from shaping.rollouts import Rollouts, model_inputs


@dataclass(frozen=True)
class TokenOutputs:
    """What the actor says of a batch: ``B x T`` each, zero on padding.

    Attributes:
        log_probs: Log-probability, in nats, of each sampled token.
        values: Value of the state before each token; zeros from a reference policy.
        entropy: Entropy of each token's distribution, in nats, without gradient; zeros where it was not asked for.
    """

    log_probs: Tensor
    values: Tensor
    entropy: Tensor


class Actor(nn.Module):
    """A policy and, where it is trained, its critic.

    Args:
        policy: A causal language model with output embeddings.
        critic: A module that gives the values before each token, or nothing for a reference policy; see
            ``pipeline.trainers.ppo.critics``.
        banned_token: A token, or several, that is never sampled; its probability is zero.
        temperature: The sampling temperature.
        autocast: Half-precision type of the matrix products; ``None`` computes in the weights' own type.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        critic: nn.Module | None,
        banned_token: TokenIds | None,
        temperature: float = 1.0,
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.policy, self.critic, self._autocast = policy, critic, autocast
        self.token_head = TokenHead(policy, banned_token, temperature)

    def forward(self, rollouts: Rollouts, with_entropy: bool = False, states: Tensor | None = None) -> TokenOutputs:
        """Return log-probabilities, values and entropies of the sampled tokens; prompts and padding get no logits.

        Args:
            rollouts: Prompts and responses.
            with_entropy: Whether the entropies are wanted.
            states: ``B x T x H`` hidden states before the tokens, where they are known; spares a pass of the trunk.
        """
        with self.half_precision():
            inputs = model_inputs(rollouts)
            before = slice(rollouts.prompt_ids.shape[1] - 1, -1)
            if states is None:
                states = self.policy.base_model(**inputs, use_cache=False).last_hidden_state[:, before]
            mask = rollouts.response_mask
            found = self.token_head(states[mask], rollouts.response_ids[mask], with_entropy)
            log_probs, entropy = (_spread(each, mask) for each in found)
            if self.critic is None:
                return TokenOutputs(log_probs, torch.zeros_like(log_probs), entropy)
            values = self.critic(states, inputs, before).float()
        return TokenOutputs(log_probs, values * mask, entropy)

    @torch.no_grad()
    def observe(
        self,
        rollouts: Rollouts,
        micro_batch_size: int | None,
        with_entropy: bool = False,
        states: Tensor | None = None,
    ) -> TokenOutputs:
        """Return the outputs without gradients, responses of like length together in each forward pass."""
        whole = [torch.zeros(rollouts.response_ids.shape, device=rollouts.response_ids.device) for _ in range(3)]
        for rows in micro_batches(rollouts.response_tokens, None, micro_batch_size):
            given = rollouts.select(rows)
            width = max(1, int(given.response_tokens.max()))
            known = None if states is None else states[rows, :width]
            found = self(given.first(width), with_entropy, known)
            for target, part in zip(whole, (found.log_probs, found.values, found.entropy), strict=True):
                target[rows, : part.shape[1]] = part.float()
        return TokenOutputs(*whole)

    def recompute_layers(self) -> None:
        """Keep no activations inside layers for the backward pass, but find them again: less memory, more time."""
        for layer in self.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                # The library's own switch works in training mode only, which would switch dropout on as well.
                layer.forward = partial(_recomputed, layer.forward)

    @property
    def computes_in(self) -> torch.dtype:
        """The type of the matrix products."""
        return self._autocast or self.policy.dtype

    def half_precision(self) -> Any:
        """Return the context that the policy computes in."""
        device = self.policy.device.type
        return torch.autocast(device, dtype=self._autocast or torch.bfloat16, enabled=self._autocast is not None)


def _recomputed(forward: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*arguments, **options)
    return checkpoint(forward, *arguments, use_reentrant=False, **options)


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    """Return ``n`` values of the real tokens as ``B x T``, zero on padding."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)


def micro_batches(lengths: Tensor, rows: Tensor | None, size: int | None) -> Sequence[Tensor]:
    """Return the rows in portions of at most ``size``, responses of like length together: little is padded.

    Args:
        lengths: ``B`` response lengths in tokens.
        rows: The rows to cut; ``None`` means all.
        size: Rows of a portion; ``None`` keeps them together, in their order.
    """
    rows = torch.arange(len(lengths), device=lengths.device) if rows is None else rows
    if size is None or size >= len(rows):
        return (rows,)
    return torch.split(rows[torch.argsort(lengths[rows], stable=True)], size)
