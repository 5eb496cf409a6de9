"""Responses with some of their tokens deleted: what coalitions and prefixes of a response come down to."""

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
    """

    rollouts: Rollouts
    owner: Tensor
    keep: Tensor

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
        width = int(self.keep.sum(dim=1).max()) if len(self) else 0
        # What is not kept goes to one column more, which is cut off.
        column = torch.where(self.keep, self.keep.cumsum(dim=1) - 1, width)
        kept = self.rollouts.response_ids.new_full((len(self), width + 1), NO_TOKEN)
        return kept.scatter_(1, column, self.rollouts.response_ids[self.owner])[:, :width]


def with_last_token(words: Tensor, token: int) -> Tensor:
    """Return rows (``R x W``, ``NO_TOKEN`` behind the end) that end with ``token``; those that do already stay."""
    lengths = (words != NO_TOKEN).sum(dim=1, keepdim=True)
    wider = torch.cat([words, words.new_full((len(words), 1), NO_TOKEN)], dim=1)
    last = wider.gather(1, (lengths - 1).clamp(min=0))
    absent = (lengths == 0) | (last != token)
    return wider.scatter(1, lengths, torch.where(absent, token, NO_TOKEN))
