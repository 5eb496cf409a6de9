"""Samples responses from a causal policy with cached keys and values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from pipeline.trainers.ppo.log_probs import TokenHead
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
    eos_id: int,
    stop_at_eos: bool,
    temperature: float = 1.0,
) -> Sampled:
    """Return sampled responses of at most ``T`` tokens.

    Args:
        policy: A causal language model.
        prompt_ids: ``B x P``, padded on the left.
        prompt_mask: ``B x P`` boolean.
        uniforms: ``T x B`` random numbers from 0 to 1, one a token whatever the vocabulary: two policies that are
            given the same share their randomness (common random numbers) as long as they agree.
        eos_id: The end-of-sequence token.
        stop_at_eos: Whether a response ends at ``eos_id``; otherwise that token is never sampled and every
            response has full length.
        temperature: Divides the logits.
    """
    cache, head = DynamicCache(config=policy.config), TokenHead(policy, None, 1.0)
    full = bool(prompt_mask.all())
    positions = (prompt_mask.long().cumsum(dim=1) - 1).clamp(min=0)
    alive = torch.ones(len(prompt_ids), dtype=torch.bool, device=prompt_ids.device)
    attention, step = prompt_mask, prompt_ids
    sampled, real, states = [], [], []
    for numbers in uniforms.to(prompt_ids.device):
        extra = {} if full else {"attention_mask": attention.long(), "position_ids": positions}
        hidden = policy.base_model(input_ids=step, past_key_values=cache, use_cache=True, **extra).last_hidden_state
        states.append(hidden[:, -1])
        token = _draw(head.logits(states[-1]) / temperature, numbers, None if stop_at_eos else eos_id)
        sampled.append(torch.where(alive, token, torch.full_like(token, eos_id)))
        real.append(alive)
        if stop_at_eos:
            alive = alive & (token != eos_id)
            if not bool(alive.any()):
                break
        step = sampled[-1][:, None]
        positions = positions[:, -1:] + 1
        attention = torch.cat([attention, torch.ones_like(attention[:, :1])], dim=1)
    rollouts = Rollouts(prompt_ids, prompt_mask, torch.stack(sampled, dim=1), torch.stack(real, dim=1))
    return Sampled(rollouts, torch.stack(states, dim=1))


def _draw(logits: Tensor, uniform: Tensor, banned: int | None) -> Tensor:
    """Return one token a row by inverting the cumulative distribution at each row's random number."""
    if banned is not None:
        logits = logits.clone()
        logits[:, banned] = -torch.inf
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)
    # Rounding can leave the last cumulative value below 1; scaling by it keeps every draw inside.
    token = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True).squeeze(1)
    return token.clamp(max=logits.shape[1] - 1)
