"""A batch of prompts and sampled responses: what every function of this package takes.

Notation, used everywhere: ``B`` responses, ``P`` prompt positions, ``T`` response positions, ``N`` units of a
response, ``m`` coalitions of a response.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from shaping.errors import ShapeError


@dataclass(frozen=True)
class Rollouts:
    """Prompts and responses as token ids of one tokenizer.

    Attributes:
        prompt_ids: A ``B x P`` integer tensor, padded on the left.
        prompt_mask: A ``B x P`` boolean tensor, true on real tokens.
        response_ids: A ``B x T`` integer tensor, padded on the right.
        response_mask: A ``B x T`` boolean tensor, true on real tokens (an end-of-sequence token is one).

    Raises:
        ShapeError: The sizes do not fit, or padding stands on the wrong side.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    response_ids: Tensor
    response_mask: Tensor

    def __post_init__(self) -> None:
        for name in ("prompt", "response"):
            ids, mask = getattr(self, f"{name}_ids"), getattr(self, f"{name}_mask")
            if ids.dim() != 2 or ids.shape != mask.shape or mask.dtype != torch.bool:
                raise ShapeError(
                    f"{name}_ids and {name}_mask must be B x T and of one size, the mask boolean, but got "
                    f"{tuple(ids.shape)} and {tuple(mask.shape)} of {mask.dtype}"
                )
        if self.prompt_ids.shape[0] != self.response_ids.shape[0]:
            raise ShapeError(
                f"prompts and responses must be as many, but got {self.prompt_ids.shape[0]} prompts "
                f"and {self.response_ids.shape[0]} responses"
            )
        if (self.response_mask[:, 1:] & ~self.response_mask[:, :-1]).any():
            raise ShapeError("response_mask must be padded on the right", "a true follows a false in some row")
        if (self.prompt_mask[:, :-1] & ~self.prompt_mask[:, 1:]).any():
            raise ShapeError("prompt_mask must be padded on the left", "a false follows a true in some row")

    def __len__(self) -> int:
        return self.response_ids.shape[0]

    @property
    def prompt_tokens(self) -> Tensor:
        """Real tokens of each prompt: a ``B`` tensor."""
        return self.prompt_mask.sum(dim=1)

    @property
    def response_tokens(self) -> Tensor:
        """Real tokens of each response: a ``B`` tensor."""
        return self.response_mask.sum(dim=1)

    @property
    def last_token(self) -> Tensor:
        """Position of each response's last real token: a ``B`` tensor; 0 where a response is empty."""
        return (self.response_tokens - 1).clamp(min=0)

    def sequences(self) -> tuple[Tensor, Tensor]:
        """Return prompt and response joined: ids and mask, each ``B x (P + T)``."""
        ids = torch.cat([self.prompt_ids, self.response_ids], dim=1)
        return ids, torch.cat([self.prompt_mask, self.response_mask], dim=1)

    def select(self, rows: Tensor) -> Rollouts:
        """Return the given rows as rollouts of their own."""
        return Rollouts(
            self.prompt_ids[rows], self.prompt_mask[rows], self.response_ids[rows], self.response_mask[rows]
        )


def place_on_last_token(values: Tensor, rollouts: Rollouts) -> Tensor:
    """Return a ``B x T`` tensor with ``values`` (``B``) on each response's last token and zero elsewhere.

    A response without tokens has no place for its value: its row stays zero.
    """
    rewards = torch.zeros(rollouts.response_ids.shape, dtype=values.dtype, device=values.device)
    placed = values * (rollouts.response_tokens > 0)
    return rewards.scatter_(1, rollouts.last_token[:, None], placed[:, None])


def model_inputs(rollouts: Rollouts) -> dict[str, Tensor]:
    """Return a causal model's inputs for whole sequences.

    Padding on the right needs no mask under causal attention; only padded prompts get one, with positions that
    count real tokens.
    """
    ids, mask = rollouts.sequences()
    if bool(rollouts.prompt_mask.all()):
        return {"input_ids": ids}
    positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    return {"input_ids": ids, "attention_mask": mask.long(), "position_ids": positions}
