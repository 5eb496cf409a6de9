"""Bounds of the space that a search ran into: what lies beyond them was never tried."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from pipeline.config.schema import StudyConfig
from pipeline.config.trainer_space import FIELD, OPTIONS, changed_ppo
from search_spaces import Candidate, Point, SettingRange, StudySpace

# Of a parameter's range: what is closer to its end stands on it.
CLOSE = 0.01
# Places along a parameter at which the model is asked.
PLACES = 21
# What a range on a log scale grows by at the end that was reached.
FURTHER = 4.0
LAMBDA, BUDGET, LEAST_BUDGET = "gae_lambda", "budget", 4

Predict = Callable[[Sequence[Point]], list[tuple[float, float]] | None]


@dataclass(frozen=True)
class BoundReached:
    """One bound that the winner stands on, or at which the model puts its best.

    Attributes:
        parameter: Its name in the space.
        bound: The bound.
        by_winner: Whether the winner stands there; otherwise the model puts the best place on it.
        remedy: The line of the config that widens the space there.
    """

    parameter: str
    bound: float
    by_winner: bool
    remedy: str

    def words(self) -> str:
        """Return a sentence with the remedy."""
        who = "The winner stands" if self.by_winner else "By the search's model the best place is"
        return f"{who} on a bound of the space, {self.parameter} = {self.bound:g}; to look beyond it: {self.remedy}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BoundReached:
        """Return what ``to_dict`` wrote."""
        return cls(str(values["parameter"]), float(values["bound"]), bool(values["by_winner"]), str(values["remedy"]))


@dataclass(frozen=True)
class _Range:
    """A parameter with bounds, and the config line that moves one of them; empty where nothing lies beyond."""

    name: str
    low: float
    high: float
    is_log: bool
    widened: Callable[[bool], str]

    def at(self, part: float) -> float:
        """Return the value at a part of the range, from 0 to 1."""
        if self.is_log:
            return self.low * float((self.high / self.low) ** part)
        return self.low + (self.high - self.low) * part

    def part(self, value: float) -> float:
        """Return how far along the range a value stands, from 0 to 1."""
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def bounds_reached(
    config: StudyConfig, space: StudySpace, winner: Candidate, predict: Predict
) -> tuple[BoundReached, ...]:
    """Return the bounds that cut a search off; those beyond which nothing can be are none.

    Args:
        config: The study's.
        space: Its space.
        winner: What the search put first.
        predict: Mean and standard deviation of J at points, by the search's model; ``None`` without one.
    """
    point, found = space.encode(winner), []
    for each in _ranges(config, space):
        part = each.part(float(point[each.name]))
        own = 0.0 if part < CLOSE else 1.0 if part > 1 - CLOSE else None
        end = own if own is not None else _best_end(each, point, predict)
        remedy = "" if end is None else each.widened(end == 1)
        if end is not None and remedy:
            found.append(BoundReached(each.name, each.high if end else each.low, own is not None, remedy))
    return tuple(found)


def _best_end(each: _Range, point: Point, predict: Predict) -> float | None:
    """Return at which end of the range, 0 or 1, the model puts the best J; ``None`` where it is inside."""
    parts = [place / (PLACES - 1) for place in range(PLACES)]
    whole = isinstance(point[each.name], int)
    values = [round(each.at(part)) if whole else each.at(part) for part in parts]
    believed = predict([{**point, each.name: value} for value in values])
    if believed is None:
        return None
    best = max(range(PLACES), key=lambda place: believed[place][0])
    # A flat line has its maximum anywhere.
    flat = believed[best][0] - min(mean for mean, _ in believed) < 1e-9
    return parts[best] if best in (0, PLACES - 1) and not flat else None


def _ranges(config: StudyConfig, space: StudySpace) -> Iterator[_Range]:
    settings = {each.name: each for each in space.settings if isinstance(each, SettingRange)}
    for parameter in space.parameters():
        if not hasattr(parameter, "bounds") or parameter.name.startswith("weight_"):
            continue
        low, high = map(float, parameter.bounds)
        name, is_log = parameter.name, getattr(parameter, "scaling", None) == "log"
        if name in settings:
            yield _Range(name, low, high, is_log, _setting_line(config, settings[name]))
        elif name == LAMBDA:
            yield _Range(name, low, high, is_log, _lambda_line(low, high))
        elif name == BUDGET:
            yield _Range(name, low, high, is_log, _budget_line(low, high))
        else:
            yield _Range(name, low, high, is_log, lambda _, name=name: f"widen {name} in {config.space.name}")  # type: ignore[misc]


def _lambda_line(low: float, high: float) -> Callable[[bool], str]:
    def line(upper: bool) -> str:
        if (high if upper else low) in (0.0, 1.0):
            return ""
        return f"space.gae_lambda: [{low}, 1.0]" if upper else f"space.gae_lambda: [0.0, {high}]"

    return line


def _budget_line(low: float, high: float) -> Callable[[bool], str]:
    def line(upper: bool) -> str:
        least = max(LEAST_BUDGET, round(low / FURTHER))
        if not upper and least >= low:
            return ""
        bounds = (round(low), round(high * FURTHER)) if upper else (least, round(high))
        return f"space.budget: [{bounds[0]}, {bounds[1]}]"

    return line


def _setting_line(config: StudyConfig, setting: SettingRange) -> Callable[[bool], str]:
    def line(upper: bool) -> str:
        low, high = setting.low, setting.high
        if setting.log:
            low, high = (low, high * FURTHER) if upper else (low / FURTHER, high)
        else:
            width = high - low
            low, high = (low, high + width) if upper else (low - width, high)
        if setting.whole:
            low, high = round(low), round(high)
        end = high if upper else low
        if end == (setting.high if upper else setting.low) or not _is_possible(config, setting.name, end):
            return ""
        log = ", log: true" if setting.log else ""
        return f"{FIELD}.{setting.name}: {{low: {low:.3g}, high: {high:.3g}{log}}}"

    return line


def _is_possible(config: StudyConfig, name: str, value: float) -> bool:
    if name.startswith(OPTIONS):
        return True
    try:
        changed_ppo(config.ppo, {name: value})
    except ValidationError:
        return False
    return True
