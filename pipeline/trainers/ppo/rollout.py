"""Samples responses from a causal policy: with cached keys and values, or by reading all again for each token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from pipeline.trainers.ppo.log_probs import TokenHead, TokenIds, as_list
from shaping.errors import ConfigError
from shaping.rollouts import Rollouts


@dataclass(frozen=True)
class Sampled:
    """Responses as they were sampled.

    Attributes:
        rollouts: Prompts and responses.
        states: The policy's last hidden state before each token: ``B x T x H``; nothing that counts on padding.
            ``None`` where they were not to be kept.
        log_probs: What an engine of another kind says of each token: ``B x T``, in nats; ``None`` where the policy
            itself was read.
    """

    rollouts: Rollouts
    states: Tensor | None
    log_probs: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence[Sampled], fill: int) -> Sampled:
        """Return portions of one batch as one: shorter responses are padded with ``fill``."""
        if len(parts) == 1:
            return parts[0]
        width = max(part.rollouts.response_ids.shape[1] for part in parts)
        lacking = [width - part.rollouts.response_ids.shape[1] for part in parts]
        given = [part.rollouts for part in parts]
        rollouts = Rollouts(
            torch.cat([each.prompt_ids for each in given]),
            torch.cat([each.prompt_mask for each in given]),
            torch.cat(
                [pad(each.response_ids, (0, more), value=fill) for each, more in zip(given, lacking, strict=True)]
            ),
            torch.cat([pad(each.response_mask, (0, more)) for each, more in zip(given, lacking, strict=True)]),
        )
        states = [
            pad(part.states, (0, 0, 0, more))
            for part, more in zip(parts, lacking, strict=True)
            if part.states is not None
        ]
        return cls(rollouts, torch.cat(states) if states else None)


@torch.no_grad()
def sample_responses(
    policy: PreTrainedModel,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    uniforms: Tensor,
    end_ids: TokenIds,
    stop_at_eos: bool,
    temperature: float = 1.0,
    cached: bool = True,
    keeps_states: bool = True,
    at_once: int | None = None,
) -> Sampled:
    """Return sampled responses of at most ``T`` tokens.

    Args:
        policy: A causal language model.
        prompt_ids: ``B x P``, padded on the left.
        prompt_mask: ``B x P`` boolean.
        uniforms: ``T x B`` random numbers from 0 to 1, one a token whatever the vocabulary: two policies that are
            given the same share their randomness (common random numbers) as long as they agree.
        end_ids: The token, or the tokens, that end a response.
        stop_at_eos: Whether a response ends at one of them; otherwise none is ever sampled and every response has
            full length.
        temperature: Divides the logits.
        cached: Whether keys and values are kept from token to token. Otherwise all is read again for each token,
            which serves every policy and takes longer.
        keeps_states: Whether the hidden states are kept.
        at_once: Responses that are sampled at a time; ``None`` samples all. What is sampled is the same, but for
            rounding.

    Raises:
        ConfigError: The policy is in training mode, or keeps no keys and values though it should.
    """
    check_evaluating(policy)
    ends = as_list(end_ids)
    parts = [
        _portion(policy, ids, mask, numbers.T, ends, stop_at_eos, temperature, cached, keeps_states)
        for ids, mask, numbers in zip(
            *(torch.split(each, at_once or max(1, len(each))) for each in (prompt_ids, prompt_mask, uniforms.T)),
            strict=True,
        )
    ]
    return Sampled.joined(parts, ends[0])


def _portion(
    policy: PreTrainedModel,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    uniforms: Tensor,
    ends: list[int],
    stop_at_eos: bool,
    temperature: float,
    cached: bool,
    keeps_states: bool,
) -> Sampled:
    read = (_Cached if cached else _Whole)(policy, full=bool(prompt_mask.all()))
    head = TokenHead(policy, None, 1.0)
    listed = torch.tensor(ends, device=prompt_ids.device)
    alive = torch.ones(len(prompt_ids), dtype=torch.bool, device=prompt_ids.device)
    attention, step = prompt_mask, prompt_ids
    sampled, real, states = [], [], []
    for numbers in uniforms.to(prompt_ids.device):
        state = read(step, attention)
        if keeps_states:
            states.append(state)
        token = _draw(head.logits(state) / temperature, numbers, None if stop_at_eos else ends)
        sampled.append(torch.where(alive, token, torch.full_like(token, ends[0])))
        real.append(alive)
        if stop_at_eos:
            alive = alive & ~torch.isin(token, listed)
            if not bool(alive.any()):
                break
        step = sampled[-1][:, None]
        attention = torch.cat([attention, torch.ones_like(attention[:, :1])], dim=1)
    rollouts = Rollouts(prompt_ids, prompt_mask, torch.stack(sampled, dim=1), torch.stack(real, dim=1))
    return Sampled(rollouts, torch.stack(states, dim=1) if keeps_states else None)


def keeps_keys_and_values(policy: PreTrainedModel) -> bool:
    """Return whether all that a policy keeps of the past is keys and values, as far as its kind tells."""
    if "past_key_values" not in signature(policy.base_model.forward).parameters:
        return False
    # A recurrent layer's state, or a window of a convolution, stands in a layer of another class.
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in new_cache(policy).layers)


def new_cache(policy: PreTrainedModel) -> DynamicCache:
    """Return what keeps a policy's keys and values, in the type that attention computes in at the time."""
    kind = policy.device.type
    half = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    return DynamicCache(config=policy.config) if half is None else _HalfCache(policy.config, half)


class _HalfCache(DynamicCache):
    """Keeps keys and values in the type that attention computes in.

    Rotary positions leave keys in float32 where products are in half precision: a cache of them would be twice as
    large, and attention would round them again for every token.
    """

    def __init__(self, config: PreTrainedConfig, half: torch.dtype) -> None:
        super().__init__(config=config)
        self._half = half

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *arguments: Any, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """Return all keys and values of a layer so far, the new ones included."""
        keys, values = key_states.to(self._half), value_states.to(self._half)
        found: tuple[Tensor, Tensor] = super().update(keys, values, layer_idx, *arguments, **options)
        return found


def check_evaluating(policy: PreTrainedModel) -> None:
    """Refuse a policy of which any part is in training mode.

    Raises:
        ConfigError: It is.
    """
    if any(module.training for module in policy.modules()):
        raise ConfigError(
            f"policy {type(policy).__name__} is in training mode, in which dropout changes what it says",
            "call policy.eval() before anything is sampled",
        )


class _Cached:
    """Reads the new tokens alone, beside the keys and values of those before.

    Args:
        policy: Whose hidden states are wanted.
        full: Whether no row is padded.
    """

    def __init__(self, policy: PreTrainedModel, full: bool) -> None:
        self._policy, self._full, self._cache = policy, full, new_cache(policy)
        self._counts = keeps_keys_and_values(policy)

    def __call__(self, new: Tensor, attention: Tensor) -> Tensor:
        """Return the last hidden state (``B x H``), given new tokens and a mask of all tokens so far."""
        extra = {} if self._full else _padding(attention)
        if extra:
            extra["position_ids"] = extra["position_ids"][:, -new.shape[1] :]
        base: Callable[..., Any] = self._policy.base_model
        found = base(input_ids=new, past_key_values=self._cache, use_cache=True, **extra)
        if self._counts and self._cache.get_seq_length() != attention.shape[1]:
            raise ConfigError(
                f"policy {type(self._policy).__name__} has kept keys and values of {self._cache.get_seq_length()} "
                f"tokens where it has read {attention.shape[1]}",
                "use a policy that fills the cache it is given, without gradient checkpointing in its config",
            )
        last: Tensor = found.last_hidden_state[:, -1]
        return last


class _Whole:
    """Reads all tokens so far for every new one; see ``_Cached``."""

    def __init__(self, policy: PreTrainedModel, full: bool) -> None:
        self._policy, self._full = policy, full
        self._ids: Tensor | None = None

    def __call__(self, new: Tensor, attention: Tensor) -> Tensor:
        """Return the last hidden state (``B x H``), given new tokens and a mask of all tokens so far."""
        self._ids = new if self._ids is None else torch.cat([self._ids, new], dim=1)
        extra = {} if self._full else _padding(attention)
        base: Callable[..., Any] = self._policy.base_model
        last: Tensor = base(input_ids=self._ids, use_cache=False, **extra).last_hidden_state[:, -1]
        return last


def _padding(attention: Tensor) -> dict[str, Tensor]:
    """Return what tells a model which of ``B x L`` tokens are padding: positions count the others."""
    positions = (attention.long().cumsum(dim=1) - 1).clamp(min=0)
    return {"attention_mask": attention.long(), "position_ids": positions}


def _draw(logits: Tensor, uniform: Tensor, banned: TokenIds | None) -> Tensor:
    """Return one token a row by inverting the cumulative distribution at each row's random number."""
    if banned is not None:
        logits = logits.clone()
        logits[:, as_list(banned)] = -torch.inf
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)
    # Rounding can leave the last cumulative value below 1; scaling by it keeps every draw inside.
    token = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True).squeeze(1)
    return token.clamp(max=logits.shape[1] - 1)
