"""Rows of tokens as a causal model is given them: several at once, padded on either side, or one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from shaping.rollouts import Rollouts, model_inputs


@dataclass(frozen=True)
class Laid:
    """Some rows of a batch, laid out for one forward pass.

    Attributes:
        rows: Which rows: ``n``.
        inputs: Of the model's backbone: ``n x L`` each.
        start: The column of each row's first token: ``n``.
    """

    rows: Tensor
    inputs: dict[str, Tensor]
    start: Tensor


def packs(lengths: Tensor, most_tokens: int) -> list[tuple[Tensor, int]]:
    """Return rows and their width: rows of like length, at most ``most_tokens`` with padding, or one longer row."""
    order = torch.argsort(lengths, descending=True, stable=True)
    found, start = [], 0
    while start < len(order):
        width = max(1, int(lengths[order[start]]))
        chosen = order[start : start + max(1, most_tokens // width)]
        found.append((chosen, width))
        start += len(chosen)
    return found


def even_packs(lengths: Tensor, most_tokens: int) -> list[tuple[Tensor, int]]:
    """Return rows and their width: rows of one length, so that nothing is padded."""
    found = []
    for width in sorted({int(length) for length in lengths}, reverse=True):
        rows = torch.nonzero(lengths == width).squeeze(1)
        found += [(part, width) for part in torch.split(rows, max(1, most_tokens // max(1, width)))]
    return found


def portions(rollouts: Rollouts, added_tokens: int, most_tokens: int) -> tuple[Tensor, ...]:
    """Return the rows of a batch in portions of at most ``most_tokens``, with what is added to each, or of one row."""
    width = rollouts.prompt_ids.shape[1] + rollouts.response_ids.shape[1] + added_tokens
    rows = torch.arange(len(rollouts), device=rollouts.response_ids.device)
    return torch.split(rows, max(1, most_tokens // max(1, width)))


def padded_left(rollouts: Rollouts, most_tokens: int) -> Iterator[Laid]:
    """Yield the rows with prompts padded on the left, so that all responses begin in one column."""
    prompt_width = rollouts.prompt_ids.shape[1]
    for rows in portions(rollouts, 0, most_tokens):
        given = rollouts.select(rows)
        yield Laid(rows, model_inputs(given), prompt_width - given.prompt_tokens)


def padded_right(rollouts: Rollouts, most_tokens: int) -> Iterator[Laid]:
    """Yield the rows from the first column on; under causal attention padding on the right needs no mask."""
    ids, real = rollouts.sequences()
    ids = torch.where(real, ids, 0).gather(1, torch.argsort((~real).to(torch.int8), dim=1, stable=True))
    for chosen, width in packs(real.sum(dim=1).cpu(), most_tokens):
        rows = chosen.to(ids.device)
        yield Laid(rows, {"input_ids": ids[rows, :width]}, torch.zeros_like(rows))


def one_by_one(rollouts: Rollouts) -> Iterator[Laid]:
    """Yield every row alone."""
    for row in range(len(rollouts)):
        yield one_row(rollouts, row)


def one_row(rollouts: Rollouts, row: int) -> Laid:
    """Return one row alone."""
    given = rollouts.select(torch.tensor([row], device=rollouts.response_ids.device))
    ids, real = given.sequences()
    rows = torch.tensor([row], device=ids.device)
    return Laid(rows, {"input_ids": ids[real][None]}, torch.zeros_like(rows))


def response_columns(laid: Laid, given: Rollouts) -> Tensor:
    """Return in which column of a layout each response token stands: ``n x T``, some column on padding."""
    first = (laid.start + given.prompt_tokens)[:, None]
    place = first + torch.arange(given.response_ids.shape[1], device=first.device)
    return place.clamp(max=laid.inputs["input_ids"].shape[1] - 1)


def last_real(ids: Tensor, start: Tensor, padding: int) -> Tensor:
    """Return for each column the last one up to it that is no padding, or the row's first: ``n x L``."""
    column = torch.arange(ids.shape[1], device=ids.device)
    real = (ids != padding) & (column >= start[:, None])
    return torch.where(real, column, start[:, None]).cummax(dim=1).values
