"""Scores coalitions of units: plans of all methods and all responses in one go."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from shaping.errors import TrialFailed
from shaping.reward_models.base import RewardModel
from shaping.rollouts import Rollouts
from shaping.variants import Variants

# Tokens of all variants that are laid out at once: bounds the memory of planning, not of the model.
MOST_PLANNED_TOKENS = 2**22


@dataclass(frozen=True)
class Coalitions:
    """Coalitions of some responses that have the same number of units.

    Attributes:
        rows: Which responses of the batch: an ``R`` integer tensor.
        members: Which units are present: an ``R x m x N`` boolean tensor; responses that share one plan may share
            its memory (``expand``).
        unit_index: ``R x T`` unit of each token, -1 where there is none: the players of this game.
        complete: Whether these are all coalitions there are. A sample may be as large by chance.
    """

    rows: Tensor
    members: Tensor
    unit_index: Tensor
    complete: bool = field(default=False)

    def __len__(self) -> int:
        return self.members.shape[0] * self.members.shape[1]


@dataclass(frozen=True)
class CoalitionValues:
    """Scores ``v(S)`` in the order of the plan, and what they cost.

    Attributes:
        values: One ``R x m`` tensor for each planned group, in reward-model units.
        coalitions: Distinct coalitions that were scored.
        forwarded_tokens: Tokens forwarded, padding included.
    """

    values: list[Tensor]
    coalitions: int
    forwarded_tokens: int


def score_coalitions(
    reward_model: RewardModel, rollouts: Rollouts, plan: list[Coalitions], absent: str = "delete"
) -> CoalitionValues:
    """Return ``v(S)`` of every planned coalition.

    Each distinct variant of a response is scored once, whoever planned it. A token without a unit, such as
    end-of-sequence, is present in every coalition.

    Args:
        reward_model: Scores the variants.
        rollouts: The batch.
        plan: What to score.
        absent: What becomes of the tokens of absent units, as in ``Shape``.

    Raises:
        TrialFailed: The reward model gave a score that is not finite (``nan``).
    """
    if not plan:
        return CoalitionValues([], 0, 0)
    device = rollouts.response_ids.device
    values = [torch.zeros(group.members.shape[:2], device=device) for group in plan]
    distinct = forwarded = 0
    for portion in _portions(plan, rollouts.response_ids.shape[1]):
        keep = torch.cat([_kept(rollouts, plan[number], place).flatten(0, 1) for number, place in portion])
        owner = torch.cat(
            [plan[number].rows[place].repeat_interleave(plan[number].members.shape[1]) for number, place in portion]
        )
        key, inverse = torch.unique(torch.cat([owner[:, None], keep.long()], dim=1), dim=0, return_inverse=True)
        scored = reward_model.score(Variants(rollouts, key[:, 0], key[:, 1:].bool(), absent))
        check_finite(scored.values, key[:, 0], reward_model.name)
        flat = scored.values.to(device)[inverse]
        sizes = [len(place) * plan[number].members.shape[1] for number, place in portion]
        for (number, place), part in zip(portion, torch.split(flat, sizes), strict=True):
            values[number][place] = part.view(len(place), -1)
        distinct, forwarded = distinct + len(key), forwarded + scored.forwarded_tokens
    return CoalitionValues(values, distinct, forwarded)


def score_responses(reward_model: RewardModel, rollouts: Rollouts) -> Tensor:
    """Return the score of each whole response: ``B``.

    Raises:
        TrialFailed: A score is not finite (``nan``).
    """
    whole = Variants.whole(rollouts)
    scores = reward_model.score(whole).values.to(rollouts.response_ids.device)
    check_finite(scores, whole.owner, reward_model.name)
    return scores


def check_finite(scores: Tensor, owner: Tensor, name: str) -> None:
    """Refuse scores that no reward can be made of.

    Raises:
        TrialFailed: A score is NaN or infinite; the message names the reward model and the response.
    """
    wrong = ~torch.isfinite(scores)
    if bool(wrong.any()):
        place = int(torch.nonzero(wrong)[0, 0])
        raise TrialFailed(
            "nan",
            f"reward model {name} scored response {int(owner[place])} of the batch as {float(scores[place])}",
            "look at that response; in half precision, try float32",
        )


def _portions(plan: list[Coalitions], width: int) -> list[list[tuple[int, Tensor]]]:
    """Return the plan in portions of bounded size: each a list of groups with the places of some of their rows.

    All of a response's coalitions in a group stay together: they share work.
    """
    portions: list[list[tuple[int, Tensor]]] = [[]]
    room = MOST_PLANNED_TOKENS
    for number, group in enumerate(plan):
        each = max(1, group.members.shape[1] * max(1, width))
        places = torch.arange(len(group.rows), device=group.rows.device)
        while len(places):
            fits = room // each
            if fits <= 0 and portions[-1]:
                portions.append([])
                room = MOST_PLANNED_TOKENS
                continue
            taken = places[: max(1, fits)]
            portions[-1].append((number, taken))
            places, room = places[len(taken) :], room - len(taken) * each
    return [portion for portion in portions if portion]


def _kept(rollouts: Rollouts, group: Coalitions, place: Tensor) -> Tensor:
    """Return which response tokens each coalition keeps: ``R x m x T``."""
    index, members = group.unit_index[place], group.members[place]
    tokens = index.clamp(min=0)[:, None, :].expand(-1, members.shape[1], -1)
    present = members.gather(2, tokens) if members.shape[2] else torch.zeros_like(tokens).bool()
    without_unit = rollouts.response_mask[group.rows[place]] & (index < 0)
    return torch.where((index >= 0)[:, None, :], present, without_unit[:, None, :])
