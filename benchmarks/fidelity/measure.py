"""The three measurements: areas on a real reward, agreement with exact Shapley values, agreement with a known truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.fidelity.agreement import Agreement, agreement
from benchmarks.fidelity.credits import Found, find_credit
from benchmarks.fidelity.curves import Areas, find_areas
from benchmarks.fidelity.field import Contender, served
from benchmarks.fidelity.worlds import truth_of
from pipeline.trainers.base import Task
from shaping.reward_models import RewardModel
from shaping.rollouts import Rollouts
from shaping.scoring import score_responses
from shaping.shape import MOST_EXACT_UNITS, Shape
from shaping.variants import Variants

# Orders of tokens that have equal credit, and of the random baseline, which is a difference's other half.
DRAWS, BASELINE_DRAWS = 2, 8


@dataclass(frozen=True)
class Ranked:
    """A method's areas.

    Attributes:
        found: Its credit.
        areas: Of its order.
    """

    found: Found
    areas: Areas


@dataclass(frozen=True)
class Curves:
    """Areas of all methods on the same responses.

    Attributes:
        ranked: By method.
        random: Of random orders.
        gaps: ``v(all) - v(none)`` of each response: ``B``, score units.
    """

    ranked: Mapping[str, Ranked]
    random: Areas
    gaps: Tensor


@dataclass(frozen=True)
class Judged:
    """A method against a truth.

    Attributes:
        found: Its credit.
        attributed: How what it says of each token agrees.
        paid: How what the policy is paid agrees.
        placed: How what it says agrees with what each token adds where it stands, where that is another truth.
    """

    found: Found
    attributed: Agreement
    paid: Agreement
    placed: Agreement | None = None


@dataclass(frozen=True)
class Exact:
    """Exact values and what they cost.

    Attributes:
        values: ``B x T``.
        coalitions: For one response.
        forwarded_tokens: For one response.
    """

    values: Tensor
    coalitions: float
    forwarded_tokens: float


def measure_curves(task: Task, field: Sequence[Contender], rollouts: Rollouts) -> Curves:
    """Return every served method's deletion and insertion areas."""
    model, generator = task.reward_model, torch.Generator().manual_seed(0)
    ranked = {}
    for contender in served(field, model):
        found = find_credit(contender, model, task.tokenizer, rollouts)
        ranked[contender.method] = Ranked(found, find_areas(model, rollouts, found.attributed, DRAWS, generator))
    nothing = torch.zeros(rollouts.response_ids.shape)
    random = find_areas(model, rollouts, nothing, BASELINE_DRAWS, generator)
    return Curves(ranked, random, _gaps(model, rollouts))


def _gaps(reward_model: RewardModel, rollouts: Rollouts) -> Tensor:
    rows = torch.arange(len(rollouts))
    empty = reward_model.score(Variants(rollouts, rows, torch.zeros_like(rollouts.response_mask))).values
    return score_responses(reward_model, rollouts) - empty


def exact_shapley(task: Task, base: Shape, rollouts: Rollouts) -> Exact:
    """Return the exact Shapley values of single tokens, of which there may be 12."""
    options = {"unit": "token", "max_units": MOST_EXACT_UNITS, "estimator": "exact"}
    contender = Contender("shapley", base.with_changes(weights={"shapley": 1.0}, **options))
    found = find_credit(contender, task.reward_model, task.tokenizer, rollouts)
    return Exact(found.attributed, found.coalitions, found.forwarded_tokens)


def against_exact(task: Task, field: Sequence[Contender], rollouts: Rollouts, exact: Exact) -> dict[str, Judged]:
    """Return how every served method agrees with exact Shapley values."""
    return _judged(task, field, rollouts, exact.values)


def against_truth(task: Task, field: Sequence[Contender], rollouts: Rollouts) -> dict[str, Judged]:
    """Return how every served method agrees with the known truth: the Shapley values of the game of effects."""
    truth = truth_of(task)
    placed = truth.worth(rollouts) if bool(truth.flippers.any()) else None
    return _judged(task, field, rollouts, truth.shapley_values(rollouts), placed)


def _judged(
    task: Task, field: Sequence[Contender], rollouts: Rollouts, truth: Tensor, placed: Tensor | None = None
) -> dict[str, Judged]:
    judged = {}
    for contender in served(field, task.reward_model):
        found = find_credit(contender, task.reward_model, task.tokenizer, rollouts)
        judged[contender.method] = Judged(
            found,
            agreement(found.attributed, truth),
            agreement(found.paid, truth),
            None if placed is None else agreement(found.attributed, placed),
        )
    return judged
