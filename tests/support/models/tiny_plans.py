"""Random plans of coalitions, and what a coalition leaves of a response, written out token by token."""

from __future__ import annotations

import torch
from torch import Tensor

from shaping import Rollouts
from shaping.scoring import Coalitions
from shaping.units import UnitSplitter, unit_counts
from tests.support.models.tiny_models import real_ids, tiny_tokenizer


def unit_index(rollouts: Rollouts, unit: str = "token", max_units: int = 64) -> Tensor:
    return UnitSplitter(tiny_tokenizer()).split(rollouts, unit, 3, max_units)


def random_plan(index: Tensor, per_response: int, seed: int = 0) -> list[Coalitions]:
    """Return random coalitions for every response, grouped by number of units, responses without units included."""
    generator, counts = torch.Generator().manual_seed(seed), unit_counts(index)
    plan = []
    for units in counts.unique().tolist():
        rows = torch.nonzero(counts == units).squeeze(1)
        members = torch.rand(len(rows), per_response, units, generator=generator) < 0.5
        plan.append(Coalitions(rows, members, index[rows]))
    return plan


def masked_response(rollouts: Rollouts, index: Tensor, row: int, members: Tensor) -> list[int]:
    units = index[row].tolist()
    response = zip(real_ids(rollouts, row)[1], units, strict=False)
    return [token for token, unit in response if unit < 0 or bool(members[unit])]


def planned_texts(rollouts: Rollouts, plan: list[Coalitions], index: Tensor) -> list[tuple[list[int], list[int]]]:
    """Return prompt and masked response of every planned coalition, in the plan's order."""
    return [
        (real_ids(rollouts, row)[0], masked_response(rollouts, index, row, members))
        for group in plan
        for place, row in enumerate(group.rows.tolist())
        for members in group.members[place]
    ]
