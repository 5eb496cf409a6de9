"""A batch of prompts and sampled responses: what every function of this package takes.

A response is all that follows the prompt. In a conversation of several turns that is more than the policy wrote: what
tools and users answered in between stands in it too, and ``policy_mask`` says what is the policy's. Reward falls there
alone; the reward model reads all of it.

Notation, used everywhere: ``B`` responses, ``P`` prompt positions, ``T`` response positions, ``N`` units of a
response, ``m`` coalitions of a response.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
        policy_mask: A ``B x T`` boolean tensor, true on the real tokens that the policy wrote; by default all of them.

    Raises:
        ShapeError: The sizes do not fit, padding stands on the wrong side, or the policy wrote padding.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    response_ids: Tensor
    response_mask: Tensor
    policy_mask: Tensor = field(default=None)  # type: ignore[assignment]

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
        if self.policy_mask is None:
            object.__setattr__(self, "policy_mask", self.response_mask)
        self._check_policy_mask()

    def _check_policy_mask(self) -> None:
        mask = self.policy_mask
        if mask.shape != self.response_mask.shape or mask.dtype != torch.bool:
            raise ShapeError(
                f"policy_mask must be B x T as response_mask and boolean, but got {tuple(mask.shape)} of {mask.dtype}"
            )
        if (mask & ~self.response_mask).any():
            raise ShapeError("policy_mask is true on padding", "set it to false where response_mask is")

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

    @property
    def policy_tokens(self) -> Tensor:
        """Tokens of each response that the policy wrote: a ``B`` tensor."""
        return self.policy_mask.sum(dim=1)

    @property
    def last_policy_token(self) -> Tensor:
        """Position of the last token that the policy wrote: a ``B`` tensor; 0 where it wrote none."""
        places = torch.arange(self.policy_mask.shape[1], device=self.policy_mask.device)
        return (places * self.policy_mask).amax(dim=1)

    @classmethod
    def of_ids(
        cls,
        prompts: list[list[int]],
        responses: list[list[int]],
        device: Any = None,
        policy_masks: Sequence[Sequence[int]] | None = None,
    ) -> Rollouts:
        """Return rows of ids, without padding, as rollouts.

        Args:
            prompts: Ids of each prompt.
            responses: Ids of each response.
            device: Where the tensors shall be.
            policy_masks: For each response, 1 on what the policy wrote and 0 elsewhere; by default it wrote all.

        Raises:
            ShapeError: There are not as many prompts as responses, or a mask is not as long as its response.
        """
        given = (*padded(prompts, left=True, device=device), *padded(responses, left=False, device=device))
        if policy_masks is None:
            return cls(*given)
        lengths = [len(row) for row in responses], [len(row) for row in policy_masks]
        if lengths[0] != lengths[1]:
            raise ShapeError(f"policy_masks has rows of {lengths[1]} tokens, but responses of {lengths[0]}")
        written, _ = padded([[int(token) for token in row] for row in policy_masks], left=False, device=device)
        return cls(*given, written.bool())

    @classmethod
    def of_texts(cls, tokenizer: Any, prompts: list[str], responses: list[str]) -> Rollouts:
        """Return texts as rollouts: prompts after what the tokenizer puts before a text, responses as they are."""
        prompt_ids = [opened_ids(tokenizer, text) for text in prompts]
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
            self.policy_mask.to(device),
        )

    def sequences(self) -> tuple[Tensor, Tensor]:
        """Return prompt and response joined: ids and mask, each ``B x (P + T)``."""
        ids = torch.cat([self.prompt_ids, self.response_ids], dim=1)
        return ids, torch.cat([self.prompt_mask, self.response_mask], dim=1)

    def ending_with(self, token: int) -> Rollouts:
        """Return the rollouts with ``token`` put after every response that does not end with it: ``T + 1`` wide.

        The policy has not written it.
        """
        ids = torch.cat([self.response_ids, self.response_ids.new_zeros(len(self), 1)], dim=1)
        mask = torch.cat([self.response_mask, self.response_mask.new_zeros(len(self), 1)], dim=1)
        tokens = self.response_tokens
        absent = (tokens == 0) | (ids.gather(1, self.last_token[:, None]).squeeze(1) != token)
        next_place = torch.arange(ids.shape[1], device=ids.device) == tokens[:, None]
        added = next_place & absent[:, None]
        written = torch.cat([self.policy_mask, mask.new_zeros(len(self), 1)], dim=1)
        return Rollouts(self.prompt_ids, self.prompt_mask, torch.where(added, token, ids), mask | added, written)

    def first(self, width: int) -> Rollouts:
        """Return the first ``width`` response positions."""
        response = (each[:, :width] for each in (self.response_ids, self.response_mask, self.policy_mask))
        return Rollouts(self.prompt_ids, self.prompt_mask, *response)

    def select(self, rows: Tensor) -> Rollouts:
        """Return the given rows as rollouts of their own."""
        prompt, response = (self.prompt_ids, self.prompt_mask), (self.response_ids, self.response_mask)
        return Rollouts(*(each[rows] for each in (*prompt, *response, self.policy_mask)))


def place_on_first_token(values: Tensor, rollouts: Rollouts) -> Tensor:
    """Return a ``B x T`` tensor with ``values`` (``B``) on the first token that the policy wrote and zero elsewhere.

    Where it wrote none the row stays zero.
    """
    mask = rollouts.policy_mask
    return torch.where(mask & (mask.long().cumsum(dim=1) == 1), values[:, None], 0)


def place_on_last_token(values: Tensor, rollouts: Rollouts) -> Tensor:
    """Return a ``B x T`` tensor with ``values`` (``B``) on the last token that the policy wrote and zero elsewhere.

    Where it wrote none there is no place for the value: the row stays zero.
    """
    rewards = torch.zeros(rollouts.response_ids.shape, dtype=values.dtype, device=values.device)
    placed = values * (rollouts.policy_tokens > 0)
    return rewards.scatter_(1, rollouts.last_policy_token[:, None], placed[:, None])


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


def unpadded(ids: Tensor, real: Tensor) -> list[list[int]]:
    """Return the real ids of each row of ``B x L``: what ``padded`` was given."""
    return [row[mask].tolist() for row, mask in zip(ids, real, strict=True)]


def opening_tokens(tokenizer: Any) -> list[int]:
    """Return the special tokens that a tokenizer puts before a text, such as beginning-of-sequence."""
    core, whole = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    return list(whole[: next(i for i in range(len(whole)) if whole[i : i + len(core)] == core)])


def opened_ids(tokenizer: Any, text: str) -> list[int]:
    """Return a text's ids after what the tokenizer puts before a text; a text that begins with it has it once."""
    opening, ids = opening_tokens(tokenizer), list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return ids if ids[: len(opening)] == opening else opening + ids
