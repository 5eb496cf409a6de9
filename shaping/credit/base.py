"""The contract of a credit method: a scored batch in, ``B x T`` credit out, in three steps.

*Plan*: a method says which coalitions it wants scored. *Score*: one engine scores the plans of all methods
together. *Solve*: each method turns its values into credit. Methods that play no coalitions only solve.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from shaping.errors import ConfigError, ShapeError
from shaping.reward_models.base import RewardModel, check_absent
from shaping.rollouts import Rollouts
from shaping.scoring import Coalitions, check_finite, score_coalitions, score_responses
from shaping.shape import Shape, check_layer
from shaping.units import UnitSplitter


@dataclass(frozen=True)
class ScoredBatch:
    """Rollouts with their scores: what a credit method reads.

    Attributes:
        rollouts: The batch.
        scores: Reward-model score of each whole response, with any adjustment: a ``B`` tensor.
        own_scores: ``B``: the same without what was added or put in their place: the reward model's. ``None`` where
            they were not found on the way.
        prefix_scores: ``B x (T + 1)`` scores along the response, where the reward model gives them in one pass.
        unit_index: ``B x T`` unit of each token, -1 where there is none.
        shape: Unit, budget and the other options of the methods.
        reward_model: Scores coalitions.
        generator: Source of every random choice of a method.
    """

    rollouts: Rollouts
    scores: Tensor
    own_scores: Tensor | None
    prefix_scores: Tensor | None
    unit_index: Tensor
    shape: Shape
    reward_model: RewardModel
    generator: torch.Generator


@dataclass(frozen=True)
class Credit:
    """What a method found.

    Attributes:
        values: ``B x T`` raw credit in reward-model units, zero on padding; closure makes it sum to the score.
        unit: ``token``, ``span``, ``sentence`` or ``response``.
        standard_error: ``B x T`` standard error of ``values`` where the method samples, else ``None``.
        coalitions: Coalitions that the method wanted scored for the batch.
        forwarded_tokens: Reward-model tokens forwarded for the batch, beyond scoring it once. Methods scored
            together share what they cost in proportion to their coalitions.
    """

    values: Tensor
    unit: str
    standard_error: Tensor | None = field(default=None)
    coalitions: int = 0
    forwarded_tokens: int = 0


Planner = Callable[[ScoredBatch], list[Coalitions]]
# From the batch, the method's plan and the values of each of its groups (R x m) to credit.
Solver = Callable[[ScoredBatch, list[Coalitions], list[Tensor]], Credit]


@dataclass(frozen=True)
class CreditMethod:
    """A credit method as the registry knows it.

    Attributes:
        name: Its name in configs.
        solve: Turns the values of the planned coalitions into credit.
        plan: Lists the coalitions to score; ``None`` where there are none.
        causal: Whether a token's credit depends on nothing that the policy wrote after the token.
        needs: What the reward model must be able to do (``attention``, ``gradient``), beyond scoring.
        sums_to_score: Whether raw credit already sums to the score, so that closure has nothing to add.
        by_units: Whether credit depends on the units.
    """

    name: str
    solve: Solver
    plan: Planner | None = None
    causal: bool = False
    needs: frozenset[str] = frozenset()
    sums_to_score: bool = False
    by_units: bool = False

    def credit(self, batch: ScoredBatch) -> Credit:
        """Return the credit of a batch, the method alone."""
        return find_credits(batch, [self])[self.name]


def find_credits(batch: ScoredBatch, methods: Iterable[CreditMethod]) -> dict[str, Credit]:
    """Return the credit of each method; a coalition that several of them want is scored once.

    Raises:
        TrialFailed: The reward model gave a score that is not finite (``nan``).
    """
    chosen = list(methods)
    plans = [[] if method.plan is None else method.plan(batch) for method in chosen]
    wishes = [group for plan in plans for group in plan]
    played = score_coalitions(batch.reward_model, batch.rollouts, wishes, batch.shape.absent)
    values, wanted = iter(played.values), [sum(len(group) for group in plan) for plan in plans]
    found = {}
    for method, plan, count in zip(chosen, plans, wanted, strict=True):
        credit = method.solve(batch, plan, [next(values) for _ in plan])
        cost = round(played.forwarded_tokens * count / max(1, sum(wanted)))
        found[method.name] = replace(
            credit, coalitions=credit.coalitions + count, forwarded_tokens=credit.forwarded_tokens + cost
        )
    return found


def score_batch(
    rollouts: Rollouts,
    reward_model: RewardModel,
    units: UnitSplitter,
    shape: Shape,
    generator: torch.Generator | None = None,
    adjustment: Tensor | None = None,
    scores: Tensor | None = None,
) -> ScoredBatch:
    """Return the batch with its scores, ready for any method.

    Args:
        rollouts: Prompts and responses.
        reward_model: Scores them.
        units: Splits responses into units.
        shape: The methods' options; its weights do not matter here.
        generator: Source of the methods' random choices; by default one with seed 0.
        adjustment: A ``B`` tensor added to the scores, such as a missing-EOS penalty.
        scores: A ``B`` tensor in place of the reward model's scores.

    Raises:
        ShapeError: ``adjustment`` is not one value a response, or ``scores`` not one finite number.
        TrialFailed: A score is not finite (``nan``).
    """
    prefixes = None
    if "prefix" in reward_model.abilities:
        prefixes = reward_model.prefix_scores(rollouts).to(rollouts.response_ids.device)
        check_finite(prefixes.flatten(), torch.arange(prefixes.numel()) // prefixes.shape[1], reward_model.name)
    # The clones are ordinary tensors, which may take part in anybody's backward pass.
    own = None if prefixes is None else prefixes[:, -1].clone()
    if scores is not None:
        scores = _checked(scores, rollouts)
    else:
        scores = own = score_responses(reward_model, rollouts).clone() if own is None else own
    if adjustment is not None:
        if adjustment.shape != scores.shape:
            raise ShapeError(f"adjustment must have one value a response, but got {tuple(adjustment.shape)}")
        scores = scores + adjustment
    return ScoredBatch(
        rollouts=rollouts,
        scores=scores,
        own_scores=own,
        prefix_scores=prefixes,
        unit_index=units.split(rollouts, shape.unit, shape.max_span, shape.max_units),
        shape=shape,
        reward_model=reward_model,
        generator=generator or torch.Generator().manual_seed(0),
    )


def _checked(scores: Tensor, rollouts: Rollouts) -> Tensor:
    if scores.shape != (len(rollouts),):
        raise ShapeError(f"scores must have one value a response, {len(rollouts)}, but got {tuple(scores.shape)}")
    if not bool(torch.isfinite(scores).all()):
        wrong = int((~torch.isfinite(scores)).nonzero()[0, 0])
        raise ShapeError(f"scores[{wrong}] = {float(scores[wrong])} is not a finite number", "look at that response")
    return scores.to(rollouts.response_ids.device, torch.float32)


def check_served(methods: Iterable[CreditMethod], reward_model: RewardModel, shape: Shape) -> None:
    """Refuse methods that a reward model cannot serve with the shape's options.

    Raises:
        ConfigError: A method needs what the reward model has not, or units cannot be taken away as the shape says.
    """
    for method in methods:
        missing = method.needs - reward_model.abilities
        if missing:
            lacking = getattr(reward_model, "lacking", {})
            reasons = "; ".join(lacking[name] for name in sorted(missing) if name in lacking)
            raise ConfigError(
                f"weights.{method.name}: the reward model {reward_model.name} gives no {', '.join(sorted(missing))}"
                + (f": {reasons}" if reasons else ""),
                f"set the weight of {method.name} to 0, or use a reward model that gives it",
            )
        if "attention" in method.needs:
            check_layer(shape.attention_layer, reward_model.layers, reward_model.name)
        if method.plan is not None:
            check_absent(shape.absent, reward_model.abilities, reward_model.name)
