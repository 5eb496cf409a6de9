"""Samples responses from a causal policy: with cached keys and values, or by reading all again for each token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
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
    """

    rollouts: Rollouts
    states: Tensor


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

    Raises:
        ConfigError: The policy is in training mode, or keeps no keys and values though it should.
    """
    check_evaluating(policy)
    read = (_Cached if cached else _Whole)(policy, full=bool(prompt_mask.all()))
    head, ends = TokenHead(policy, None, 1.0), as_list(end_ids)
    listed = torch.tensor(ends, device=prompt_ids.device)
    alive = torch.ones(len(prompt_ids), dtype=torch.bool, device=prompt_ids.device)
    attention, step = prompt_mask, prompt_ids
    sampled, real, states = [], [], []
    for numbers in uniforms.to(prompt_ids.device):
        states.append(read(step, attention))
        token = _draw(head.logits(states[-1]) / temperature, numbers, None if stop_at_eos else ends)
        sampled.append(torch.where(alive, token, torch.full_like(token, ends[0])))
        real.append(alive)
        if stop_at_eos:
            alive = alive & ~torch.isin(token, listed)
            if not bool(alive.any()):
                break
        step = sampled[-1][:, None]
        attention = torch.cat([attention, torch.ones_like(attention[:, :1])], dim=1)
    rollouts = Rollouts(prompt_ids, prompt_mask, torch.stack(sampled, dim=1), torch.stack(real, dim=1))
    return Sampled(rollouts, torch.stack(states, dim=1))


def keeps_keys_and_values(policy: PreTrainedModel) -> bool:
    """Return whether all that a policy keeps of the past is keys and values, as far as its kind tells."""
    if "past_key_values" not in signature(policy.base_model.forward).parameters:
        return False
    # A recurrent layer's state, or a window of a convolution, stands in a layer of another class.
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in _new_cache(policy).layers)


def _new_cache(policy: PreTrainedModel) -> DynamicCache:
    return DynamicCache(config=policy.config)


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
        self._policy, self._full, self._cache = policy, full, _new_cache(policy)
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
