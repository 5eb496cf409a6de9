"""A batch of prompts and sampled responses: what every function of this package takes.

Notation, used everywhere: ``B`` responses, ``P`` prompt positions, ``T`` response positions, ``N`` units of a
response, ``m`` coalitions of a response.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
        if self.response_ids.shape[1] == 0:
            raise ShapeError("response_ids has no position", "pad empty responses to one position, its mask false")
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

    @classmethod
    def of_ids(cls, prompts: list[list[int]], responses: list[list[int]], device: Any = None) -> Rollouts:
        """Return rows of ids, without padding, as rollouts."""
        return cls(*padded(prompts, left=True, device=device), *padded(responses, left=False, device=device))

    @classmethod
    def of_texts(cls, tokenizer: Any, prompts: list[str], responses: list[str]) -> Rollouts:
        """Return texts as rollouts: prompts after what the tokenizer puts before a text, responses as they are."""
        opening = opening_tokens(tokenizer)
        prompt_ids = [opening + list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in prompts]
        response_ids = [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in responses]
        return cls.of_ids(prompt_ids, response_ids)

    def to(self, device: torch.device | str) -> Rollouts:
        """Return the rollouts on a device; themselves where they are there already."""
        if self.response_ids.device == torch.device(device):
            return self
        return Rollouts(
            self.prompt_ids.to(device),
            self.prompt_mask.to(device),
            self.response_ids.to(device),
            self.response_mask.to(device),
        )

    def sequences(self) -> tuple[Tensor, Tensor]:
        """Return prompt and response joined: ids and mask, each ``B x (P + T)``."""
        ids = torch.cat([self.prompt_ids, self.response_ids], dim=1)
        return ids, torch.cat([self.prompt_mask, self.response_mask], dim=1)

    def ending_with(self, token: int) -> Rollouts:
        """Return the rollouts with ``token`` put after every response that does not end with it: ``T + 1`` wide."""
        ids = torch.cat([self.response_ids, self.response_ids.new_zeros(len(self), 1)], dim=1)
        mask = torch.cat([self.response_mask, self.response_mask.new_zeros(len(self), 1)], dim=1)
        tokens = self.response_tokens
        absent = (tokens == 0) | (ids.gather(1, self.last_token[:, None]).squeeze(1) != token)
        next_place = torch.arange(ids.shape[1], device=ids.device) == tokens[:, None]
        added = next_place & absent[:, None]
        return Rollouts(self.prompt_ids, self.prompt_mask, torch.where(added, token, ids), mask | added)

    def first(self, width: int) -> Rollouts:
        """Return the first ``width`` response positions."""
        return Rollouts(self.prompt_ids, self.prompt_mask, self.response_ids[:, :width], self.response_mask[:, :width])

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


def padded(rows: list[list[int]], left: bool, device: Any = None) -> tuple[Tensor, Tensor]:
    """Return rows of ids as one tensor, padded with 0 on one side, and which places are real: ``B x L``, ``L > 0``."""
    width = max([1, *(len(row) for row in rows)])
    pads = [[0] * (width - len(row)) for row in rows]
    ids = [pad + row if left else row + pad for row, pad in zip(rows, pads, strict=True)]
    lengths = torch.tensor([len(row) for row in rows])[:, None]
    column = torch.arange(width)
    real = column >= width - lengths if left else column < lengths
    return torch.tensor(ids, device=device), real.to(device)


def opening_tokens(tokenizer: Any) -> list[int]:
    """Return the special tokens that a tokenizer puts before a text, such as beginning-of-sequence."""
    core, whole = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    return list(whole[: next(i for i in range(len(whole)) if whole[i : i + len(core)] == core)])
