"""Log-probabilities of sampled tokens from hidden states; never the logits of a whole batch in memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from shaping.errors import ConfigError

# Logits of one portion, in float32. Below it they are kept for the backward pass, beyond it they are found again.
PORTION_BYTES = 32 * 2**20
# A GPU is idle between small portions: there it is a share of what is free, up to a bound.
FREE_SHARE, MOST_BYTES_ON_GPU = 1 / 16, 2**30
# What rounding may do to logits, in shares of the largest: weights in half precision, and in float32.
AGREES_HALF, AGREES = 1e-3, 6e-5
# Names under which families bound their logits, and multiply or divide them.
SOFT_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
FACTORS, DIVISORS = ("logit_scale", "lm_head_multiplier"), ("logits_scaling",)
# One token's id, or several.
TokenIds = int | Sequence[int]


class TokenHead:
    """From a policy's hidden states to what it gave the tokens that were sampled.

    Args:
        policy: A causal language model with output embeddings.
        banned_token: A token, or several, that is never sampled; its probability is zero.
        temperature: The sampling temperature.
        portion_bytes: Bound of the logits that stand in memory at once; by default chosen for the device.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        banned_token: TokenIds | None,
        temperature: float,
        portion_bytes: int | None = None,
    ) -> None:
        self._policy, self._temperature = policy, temperature
        self._banned = None if banned_token is None else as_list(banned_token)
        config = policy.config.get_text_config()
        self._soft_cap = next((cap for name in SOFT_CAPS if (cap := getattr(config, name, None)) is not None), None)
        self._factor = math.prod(float(getattr(config, name, None) or 1.0) for name in FACTORS)
        self._factor /= math.prod(float(getattr(config, name, None) or 1.0) for name in DIVISORS)
        self._portion_bytes, self._token_bytes = portion_bytes, 4 * int(config.vocab_size)

    def __call__(self, states: Tensor, tokens: Tensor, with_entropy: bool) -> tuple[Tensor, Tensor]:
        """Return log-probability and entropy, in nats, of ``n`` tokens: ``n`` each.

        The entropy has no gradient and is zero where it is not asked for.

        Args:
            states: ``n x H`` hidden states before the tokens.
            tokens: ``n`` sampled tokens.
            with_entropy: Whether the entropies are wanted.
        """
        at_once = max(1, (self._portion_bytes or logits_bytes(states.device)) // self._token_bytes)
        if len(tokens) <= at_once:
            return self._portion_of(states, tokens, with_entropy)
        found = []
        for part, given in zip(*(torch.split(each, at_once) for each in (states, tokens)), strict=True):
            if torch.is_grad_enabled():
                found.append(checkpoint(self._portion_of, part, given, with_entropy, use_reentrant=False))
            else:
                found.append(self._portion_of(part, given, with_entropy))
        log_probs, entropy = zip(*found, strict=True)
        return torch.cat(log_probs), torch.cat(entropy)

    def logits(self, states: Tensor) -> Tensor:
        """Return the model's own logits of ``n x H`` states: ``n x V``, float32."""
        head: Any = self._policy.get_output_embeddings()
        logits: Tensor = head(states).float()
        if self._factor != 1.0:
            logits = logits * self._factor
        if self._soft_cap is not None:
            logits = self._soft_cap * torch.tanh(logits / self._soft_cap)
        return logits

    def _portion_of(self, states: Tensor, tokens: Tensor, with_entropy: bool) -> tuple[Tensor, Tensor]:
        logits = self.logits(states)
        if self._temperature != 1.0:
            logits = logits / self._temperature
        if self._banned is not None:
            logits[:, self._banned] = torch.finfo(logits.dtype).min
        normalizer = logits.logsumexp(dim=-1)
        log_probs = logits.gather(1, tokens[:, None]).squeeze(1) - normalizer
        if not with_entropy:
            return log_probs, torch.zeros_like(normalizer)
        with torch.no_grad():
            entropy = normalizer - (torch.softmax(logits, dim=-1) * logits).sum(dim=-1)
        return log_probs, entropy


def logits_bytes(device: torch.device) -> int:
    """Return how many bytes of logits may stand in a device's memory at once."""
    if device.type != "cuda":
        return PORTION_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    return max(PORTION_BYTES, min(MOST_BYTES_ON_GPU, int(FREE_SHARE * free)))


def as_list(ids: TokenIds) -> list[int]:
    """Return one token's id, or several, as a list."""
    return [ids] if isinstance(ids, int) else [int(each) for each in ids]


@torch.no_grad()
def check_head(policy: PreTrainedModel) -> None:
    """Refuse a model whose logits are not its output embeddings of the last hidden state.

    Raises:
        ConfigError: The model has no output embeddings, or does something of its own to its logits.
    """
    name = type(policy).__name__
    if policy.get_output_embeddings() is None:
        raise ConfigError(f"policy {name} has no language-model head", "use a causal language model")
    ids = torch.arange(4, device=policy.device)[None] % int(policy.config.get_text_config().vocab_size)
    expected = policy(input_ids=ids, use_cache=False).logits[0].float()
    hidden = policy.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
    found = TokenHead(policy, None, 1.0).logits(hidden)
    # In half precision both sides round alike; only a step that is missing shows.
    allowed = AGREES if hidden.dtype == torch.float32 else AGREES_HALF
    if not torch.allclose(found, expected, atol=allowed * float(expected.abs().max()), rtol=0):
        raise ConfigError(
            f"policy {name} changes its logits in a way that is not known here",
            "use a model whose logits are its output embeddings of the last hidden state",
        )
