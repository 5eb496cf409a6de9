"""Units of a response: the players of the coalition methods, found from the tokens themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shaping.rollouts import Rollouts
from shaping.texts.invisible import shown_tokens

SPAN_ENDS = ".,;:?!"
SENTENCE_ENDS = ".?!"
NOT_A_UNIT = -1


class UnitSplitter:
    """Splits what the policy wrote of responses into tokens, spans, sentences or turns.

    A span ends after one of ``. , ; : ? !`` (SCAR, arXiv 2505.20417) or after ``max_span`` tokens; a sentence
    after one of ``. ? !``; a turn where somebody else answers, and so does every other unit. Special tokens that no
    text shows, such as end-of-sequence, and answers, belong to no unit: no coalition drops them.

    Args:
        tokenizer: The tokenizer that made the responses; only its vocabulary is read.
    """

    def __init__(self, tokenizer: Any) -> None:
        tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        texts = [(token or "").rstrip("Ġ▁Ċ \n") for token in tokens]
        special = set(tokenizer.all_special_ids) - shown_tokens(tokenizer)
        # The last entry stands for every id beyond the vocabulary: models may have padded embeddings.
        self._span_end = torch.tensor([text[-1:] in SPAN_ENDS and text != "" for text in texts] + [False])
        self._sentence_end = torch.tensor([text[-1:] in SENTENCE_ENDS and text != "" for text in texts] + [False])
        self._special = torch.tensor([index in special for index in range(len(texts))] + [False])

    def split(self, rollouts: Rollouts, unit: str, max_span: int, max_units: int) -> Tensor:
        """Return the unit of every response token: a ``B x T`` integer tensor, -1 where there is none.

        Units are numbered from 0 without gaps, in reading order; beyond ``max_units`` neighbours are merged.
        """
        ids = rollouts.response_ids.clamp(max=len(self._special) - 1)
        member = rollouts.policy_mask & ~self._special.to(ids.device)[ids]
        if unit == "token":
            ends = member
        elif unit == "turn":
            ends = torch.zeros_like(member)
        else:
            table = self._span_end if unit == "span" else self._sentence_end
            ends = member & table.to(ids.device)[ids]
        index = _number(member, ends, ~rollouts.policy_mask, max_span if unit == "span" else None)
        return _merge(index, max_units)


def _number(member: Tensor, ends: Tensor, between: Tensor, longest: int | None) -> Tensor:
    """Return units numbered in reading order: one ends at ``ends``, with ``longest`` tokens, and before ``between``."""
    nowhere = torch.full(member.shape, NOT_A_UNIT, device=member.device)
    if member.shape[1] == 0:
        return nowhere
    places = torch.arange(member.shape[1], device=member.device).expand(member.shape)
    # The last member at or before each token; then the one before it.
    latest = torch.where(member, places, NOT_A_UNIT).cummax(dim=1).values
    before = torch.cat([nowhere[:, :1], latest[:, :-1]], dim=1)
    earlier = before.clamp(min=0)
    # How much stands between, up to each token and without it.
    passed = between.long().cumsum(dim=1) - between.long()
    parted = (before < 0) | ends.gather(1, earlier) | (passed > passed.gather(1, earlier))
    starts = member & parted
    if longest is not None:
        count = member.long().cumsum(dim=1)
        since = count - torch.where(starts, count, 0).cummax(dim=1).values
        starts = member & (since % longest == 0)
    return torch.where(member, starts.long().cumsum(dim=1) - 1, nowhere)


def _merge(index: Tensor, max_units: int) -> Tensor:
    count = unit_counts(index)[:, None]
    merged = torch.div(index * max_units, count.clamp(min=1), rounding_mode="floor")
    return torch.where((count > max_units) & (index >= 0), merged, index)


def unit_counts(index: Tensor) -> Tensor:
    """Return the number of units of each response, ``N``: a ``B`` tensor."""
    return index.amax(dim=1) + 1 if index.shape[1] else torch.zeros(index.shape[0], dtype=torch.long)


def on_last_token(unit_values: Tensor, index: Tensor) -> Tensor:
    """Return ``B x T`` credit with each unit's value (``B x N``) on its last token, zero elsewhere.

    A special token in the middle of a unit does not end it.
    """
    # Units are numbered in reading order, so the next token that has a unit is the smallest number to come.
    to_come = torch.where(index < 0, torch.iinfo(index.dtype).max, index)
    to_come = torch.cat([to_come[:, 1:], torch.full_like(index[:, :1], torch.iinfo(index.dtype).max)], dim=1)
    following = to_come.flip(1).cummin(dim=1).values.flip(1) if index.shape[1] else to_come
    last = (index >= 0) & (index != following)
    gathered = unit_values.gather(1, index.clamp(min=0))
    return torch.where(last, gathered, torch.zeros_like(gathered))
