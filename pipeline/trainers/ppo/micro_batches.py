"""Cuts a batch into portions of one forward pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def micro_batches(lengths: Tensor, rows: Tensor | None, size: int | None) -> Sequence[Tensor]:
    """Return the rows in portions of at most ``size``, responses of like length together: little is padded.

    Args:
        lengths: ``B`` response lengths in tokens.
        rows: The rows to cut; ``None`` means all.
        size: Rows of a portion; ``None`` keeps them together, in their order.
    """
    rows = torch.arange(len(lengths), device=lengths.device) if rows is None else rows
    if size is None or size >= len(rows):
        return (rows,)
    return torch.split(rows[torch.argsort(lengths[rows], stable=True)], size)
