"""Samples responses from a causal policy with cached keys and values."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from shaping.rollouts import Rollouts


@torch.no_grad()
def sample_responses(
    policy: PreTrainedModel,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    response_tokens: int,
    generator: torch.Generator,
    eos_id: int,
    stop_at_eos: bool,
    temperature: float = 1.0,
) -> Rollouts:
    """Return sampled responses of at most ``response_tokens`` tokens.

    Args:
        policy: A causal language model.
        prompt_ids: ``B x P``, padded on the left.
        prompt_mask: ``B x P`` boolean.
        response_tokens: Tokens to sample.
        generator: Source of the randomness; one uniform number a token, whatever the vocabulary.
        eos_id: The end-of-sequence token.
        stop_at_eos: Whether a response ends at ``eos_id``; otherwise that token is never sampled and every
            response has full length.
        temperature: Divides the logits.
    """
    cache = DynamicCache(config=policy.config)
    full = bool(prompt_mask.all())
    positions = (prompt_mask.long().cumsum(dim=1) - 1).clamp(min=0)
    alive = torch.ones(len(prompt_ids), dtype=torch.bool, device=prompt_ids.device)
    attention, step, sampled, real = prompt_mask, prompt_ids, [], []
    for _ in range(response_tokens):
        extra = {} if full else {"attention_mask": attention.long(), "position_ids": positions}
        logits = policy(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1, **extra).logits
        token = _draw(logits[:, -1].float() / temperature, generator, None if stop_at_eos else eos_id)
        sampled.append(torch.where(alive, token, torch.full_like(token, eos_id)))
        real.append(alive)
        if stop_at_eos:
            alive = alive & (token != eos_id)
            if not bool(alive.any()):
                break
        step = sampled[-1][:, None]
        positions = positions[:, -1:] + 1
        attention = torch.cat([attention, torch.ones_like(attention[:, :1])], dim=1)
    return Rollouts(prompt_ids, prompt_mask, torch.stack(sampled, dim=1), torch.stack(real, dim=1))


def _draw(logits: Tensor, generator: torch.Generator, banned: int | None) -> Tensor:
    """Return one token a row by inverting the cumulative distribution.

    One uniform number a row is drawn, so that two policies with the same generator share their randomness
    (common random numbers) as long as they agree.
    """
    if banned is not None:
        logits = logits.clone()
        logits[:, banned] = -torch.inf
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)
    uniform = torch.rand(len(logits), 1, generator=generator).to(logits.device)
    # Rounding can leave the last cumulative value below 1; scaling by it keeps every draw inside.
    token = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True).squeeze(1)
    return token.clamp(max=logits.shape[1] - 1)
