"""Whose credit is judged: every method alone, with the options that it has in the papers' comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.papers.field import ENTRANTS
from shaping.credit import METHODS, check_served
from shaping.errors import ConfigError
from shaping.method_names import METHOD_NAMES
from shaping.reward_models import RewardModel
from shaping.shape import Shape


@dataclass(frozen=True)
class Contender:
    """A credit method as it is judged.

    Attributes:
        method: Its name.
        shape: All reward by this method.
        entrant: Who learns from this credit in the papers' comparison; empty where nobody does.
        balance: Share of the reward that the entrant spreads; the rest stays on the last token.
    """

    method: str
    shape: Shape
    entrant: str = ""
    balance: float = 1.0


def contenders(base: Shape) -> list[Contender]:
    """Return every credit method at the settings of ``base``."""
    return [_contender(method, base) for method in METHOD_NAMES]


def _contender(method: str, base: Shape) -> Contender:
    same = [each for each in ENTRANTS if dict(each.weights) == {method: 1.0} and each.reward_scale == 1]
    if not same:
        return Contender(method, base.with_changes(weights={method: 1.0}, balance=1.0))
    purest = max(same, key=lambda each: each.balance)
    shape = base.with_changes(weights={method: 1.0}, balance=1.0, **purest.options)
    return Contender(method, shape, purest.name, purest.balance)


def served(field: Sequence[Contender], reward_model: RewardModel) -> list[Contender]:
    """Return the contenders that a reward model can serve: a program has no attention."""
    return [each for each in field if _is_served(each, reward_model)]


def _is_served(contender: Contender, reward_model: RewardModel) -> bool:
    try:
        check_served([METHODS[contender.method]], reward_model, contender.shape)
    except ConfigError:
        return False
    return True
