"""Responses without some of their tokens: what coalitions and prefixes of a response come down to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from shaping.rollouts import Rollouts

NO_TOKEN = -1


@dataclass(frozen=True)
class Variants:
    """Variants of a batch's responses, each after its whole prompt.

    Attributes:
        rollouts: The batch.
        owner: Which response each variant is made of: an ``R`` integer tensor.
        keep: Which response tokens it keeps: an ``R x T`` boolean tensor, false on padding.
        absent: What becomes of the others: ``delete``, ``mask`` or ``attention``, as in ``Shape``.
    """

    rollouts: Rollouts
    owner: Tensor
    keep: Tensor
    absent: str = "delete"

    def __len__(self) -> int:
        return self.owner.shape[0]

    @classmethod
    def whole(cls, rollouts: Rollouts) -> Variants:
        """Return each response as it is."""
        return cls(rollouts, torch.arange(len(rollouts), device=rollouts.response_ids.device), rollouts.response_mask)

    @classmethod
    def prefixes(cls, rollouts: Rollouts) -> Variants:
        """Return every prefix of every response, ``T + 1`` each; on padding the whole response is repeated."""
        count, width = rollouts.response_ids.shape
        owner = torch.arange(count, device=rollouts.response_ids.device).repeat_interleave(width + 1)
        shorter = torch.ones(width + 1, width, dtype=torch.bool, device=owner.device).tril(-1)
        return cls(rollouts, owner, (shorter[None] & rollouts.response_mask[:, None]).flatten(0, 1))

    def kept_ids(self) -> Tensor:
        """Return the kept tokens moved to the left: ``R x W`` ids, ``NO_TOKEN`` behind the last one."""
        return self._moved_left(self.rollouts.response_ids[self.owner])

    def kept_places(self) -> Tensor:
        """Return where in the response each of ``kept_ids`` stands, from 0: ``R x W``, ``NO_TOKEN`` behind."""
        return self._moved_left(torch.arange(self.keep.shape[1], device=self.keep.device).expand_as(self.keep))

    def all_ids(self, mask_token: int | None = None) -> Tensor:
        """Return all tokens, absent ones replaced if a token for them is given: ``R x T``, ``NO_TOKEN`` on padding."""
        ids = self.rollouts.response_ids[self.owner]
        ids = ids if mask_token is None else torch.where(self.keep, ids, mask_token)
        return torch.where(self.rollouts.response_mask[self.owner], ids, NO_TOKEN)

    def ending_with(self, token: int) -> Variants:
        """Return variants of responses that all end with ``token``, put there where it is not; it is never absent."""
        ended = self.rollouts.ending_with(token)
        place = torch.arange(ended.response_ids.shape[1], device=self.keep.device)
        keep = torch.cat([self.keep, torch.zeros_like(self.keep[:, :1])], dim=1)
        return Variants(ended, self.owner, keep | (place == ended.last_token[self.owner][:, None]), self.absent)

    def _moved_left(self, values: Tensor) -> Tensor:
        width = int(self.keep.sum(dim=1).max()) if len(self) else 0
        # What is not kept goes to one column more, which is cut off.
        column = torch.where(self.keep, self.keep.cumsum(dim=1) - 1, width)
        return values.new_full((len(self), width + 1), NO_TOKEN).scatter_(1, column, values)[:, :width]


def with_last_token(words: Tensor, token: int) -> Tensor:
    """Return rows (``R x W``, ``NO_TOKEN`` behind the end) that end with ``token``; those that do already stay."""
    lengths = (words != NO_TOKEN).sum(dim=1, keepdim=True)
    wider = torch.cat([words, words.new_full((len(words), 1), NO_TOKEN)], dim=1)
    last = wider.gather(1, (lengths - 1).clamp(min=0))
    absent = (lengths == 0) | (last != token)
    return wider.scatter(1, lengths, torch.where(absent, token, NO_TOKEN))
