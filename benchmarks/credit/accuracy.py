"""How many evaluations an estimator of Shapley values needs for a given error against exact values."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.credit.judge import Judge
from benchmarks.credit.peers import Estimator, Values
from shaping import CausalRewardModel, Rollouts, ScoredBatch, Shape, UnitSplitter, score_batch
from shaping.credit.coalition_plan import all_coalitions, groups, shared
from shaping.credit.kernel_shap import paired_members, solve_group
from shaping.credit.paired_sampling import sample_pairs
from shaping.credit.shapley_exact import exact_values
from shaping.scoring import Coalitions, CoalitionValues, score_coalitions

UNITS = 12
BUDGETS = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1_024, 1_536, 2_048, 3_072)
SEEDS = 3


@dataclass(frozen=True)
class Tables:
    """All coalition values of some responses of 12 units, by binary number, and what they cost.

    Attributes:
        values: ``n x 2^12``.
        rollouts: The responses.
        unit_index: Their units.
        scored: The engine's account.
    """

    values: Values
    rollouts: Rollouts
    unit_index: Tensor
    scored: CoalitionValues
    exact: Values = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "exact", exact_values(torch.tensor(self.values)).numpy())

    def kept_tokens(self, row: int, coalitions: NDArray[np.bool_]) -> int:
        """Return the tokens of a response's coalitions, prompt and end-of-sequence included, nothing shared."""
        sizes = torch.bincount(self.unit_index[row][self.unit_index[row] >= 0], minlength=UNITS).numpy()
        always = int(self.rollouts.prompt_tokens[row]) + 1
        return int((coalitions @ sizes).sum()) + always * len(coalitions)


def batch_of(judge: Judge, reward_model: CausalRewardModel, rollouts: Rollouts, shape: Shape) -> ScoredBatch:
    """Return the batch, in 12 units a response."""
    batch = score_batch(rollouts, reward_model, UnitSplitter(judge.tokenizer), shape)
    assert bool((batch.unit_index.amax(dim=1) == UNITS - 1).all())
    return batch


def spans(**options: object) -> Shape:
    """Return the shape whose units are 12 spans of a 24-token response."""
    return Shape.from_dict({"unit": "span", "max_span": 2, "max_units": UNITS, **options})


def exact_tables(judge: Judge, reward_model: CausalRewardModel, prompt_tokens: int, responses: int) -> Tables:
    """Return the values of all coalitions of ``responses`` held-out reviews."""
    rollouts = judge.rollouts(prompt_tokens, responses)
    index = batch_of(judge, reward_model, rollouts, spans()).unit_index
    plan = [shared(all_coalitions(units), rows, index, complete=True) for units, rows in groups(index)]
    scored = score_coalitions(reward_model, rollouts, plan)
    return Tables(scored.values[0].double().cpu().numpy(), rollouts, index, scored)


def ours(game: object, units: int, budget: int, seed: int) -> Values:
    """Return this project's sampled values, for one response as the peers see it: nothing pooled over a batch."""
    generator = torch.Generator().manual_seed(seed)
    members = paired_members(sample_pairs(units, (budget - 2) // 2, generator))
    group = Coalitions(torch.zeros(1, dtype=torch.long), members[None], torch.zeros(1, 1))
    values = torch.as_tensor(game(members.numpy()))[None]  # type: ignore[operator]
    return solve_group(group, values, generator)[0][0].numpy()


@dataclass(frozen=True)
class Curve:
    """Relative error of each response (a mean over seeds) and its tokens without sharing: budgets x responses."""

    errors: Values
    tokens: Values

    def error(self, budget: int) -> float:
        """Return the mean error at one of the budgets."""
        return float(self.errors[BUDGETS.index(budget)].mean())

    def at_error(self, error: float, rows: NDArray[np.int64] | None = None) -> tuple[float, float]:
        """Return the evaluations and tokens at which the mean error is reached, interpolated between logarithms.

        Args:
            error: The error wanted.
            rows: The responses to take the mean over, for a bootstrap; by default all.
        """
        chosen = slice(None) if rows is None else rows
        errors, tokens = self.errors[:, chosen].mean(axis=1), self.tokens[:, chosen].mean(axis=1)
        for low, high in pairwise(range(len(BUDGETS))):
            if errors[low] >= error >= errors[high]:
                place = np.log(errors[low] / error) / max(np.log(errors[low] / errors[high]), 1e-12)
                return _between(BUDGETS[low], BUDGETS[high], place), _between(tokens[low], tokens[high], place)
        return float("nan"), float("nan")


def _between(low: float, high: float, place: float) -> float:
    return float(low * (high / low) ** place)


def curve(tables: Tables, estimate: Estimator) -> Curve:
    """Return the error of an estimator against exact values, ``|phi - exact| / |exact|``, at every budget."""
    responses = len(tables.values)
    errors, tokens = (np.zeros((len(BUDGETS), responses)) for _ in range(2))
    for place, budget in enumerate(BUDGETS):
        for row, (values, exact) in enumerate(zip(tables.values, tables.exact, strict=True)):
            for seed in range(SEEDS):

                def game(
                    coalitions: NDArray[np.bool_], place: int = place, row: int = row, values: Values = values
                ) -> Values:
                    tokens[place, row] += tables.kept_tokens(row, coalitions) / SEEDS
                    found: Values = values[(coalitions * 2 ** np.arange(UNITS)).sum(axis=1)]
                    return found

                estimated = estimate(game, UNITS, budget, seed)
                errors[place, row] += np.linalg.norm(estimated - exact) / np.linalg.norm(exact) / SEEDS
    return Curve(errors, tokens)
