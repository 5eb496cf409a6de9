"""Ways through a search space: along one method's share, or along one of the space's own parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeAlias

from search_spaces import Candidate, Point, StudySpace
from shaping.errors import ConfigError

if TYPE_CHECKING:
    from search_spaces.base import Parameter

Position: TypeAlias = float | int | str
# Of a point's number, relative to 1: what decoding may change without its being another point.
SAME = 1e-6
WEIGHT, LAMBDA = "weight_", "gae_lambda"


class Axis(Protocol):
    """One way through the space."""

    @property
    def name(self) -> str:
        """In words."""
        ...

    def positions(self, count: int) -> list[Position]:
        """Return places along it, from end to end; ``count`` of them where it is continuous."""
        ...

    def of(self, candidate: Candidate) -> Position:
        """Return where a candidate of the space stands."""
        ...

    def moved(self, candidate: Candidate, position: Position) -> Candidate | None:
        """Return the candidate moved to a place; ``None`` where that leaves the space."""
        ...


@dataclass(frozen=True)
class ShareAxis:
    """One method's weight among the methods; what it leaves goes to the others in the proportions that they had.

    Args:
        space: Where the candidates are of.
        method: Whose share moves.
        methods: All that may have one; those that had none share equally where the method had everything.
    """

    space: StudySpace
    method: str
    methods: tuple[str, ...]

    @property
    def name(self) -> str:
        """In words."""
        return f"share of {self.method}"

    def positions(self, count: int) -> list[Position]:
        """Return shares from 0 to 1."""
        return [place / (count - 1) for place in range(count)]

    def of(self, candidate: Candidate) -> float:
        """Return the method's share."""
        return candidate.shape.weights.get(self.method, 0.0)

    def moved(self, candidate: Candidate, position: Position) -> Candidate | None:
        """Return the candidate with another share; ``None`` where the space has no such mix."""
        share, weights = float(position), candidate.shape.weights
        others = {name: part for name, part in weights.items() if name != self.method and part > 0}
        others = others or {name: 1.0 for name in self.methods if name != self.method}
        total = math.fsum(others.values())
        return mixed(
            self.space, candidate, {self.method: share, **{k: (1 - share) * part / total for k, part in others.items()}}
        )


@dataclass(frozen=True)
class ParameterAxis:
    """One of the space's parameters, all others held."""

    space: StudySpace
    parameter: Parameter

    @property
    def name(self) -> str:
        """In words."""
        return "lambda" if self.parameter.name == LAMBDA else self.parameter.name

    def positions(self, count: int) -> list[Position]:
        """Return values from bound to bound, or the choices."""
        if hasattr(self.parameter, "values"):
            return list(self.parameter.values)
        low, high = map(float, self.parameter.bounds)
        parts = [place / (count - 1) for place in range(count)]
        is_log = getattr(self.parameter, "scaling", None) == "log"
        values = [low * (high / low) ** part if is_log else low + (high - low) * part for part in parts]
        return sorted({round(value) for value in values}) if self.parameter.parameter_type == "int" else list(values)

    def of(self, candidate: Candidate) -> Position:
        """Return the parameter's value."""
        return self.space.encode(candidate)[self.parameter.name]

    def moved(self, candidate: Candidate, position: Position) -> Candidate | None:
        """Return the candidate with another value; ``None`` where the constraints leave no such point."""
        point = {**self.space.encode(candidate), self.parameter.name: position}
        try:
            found = self.space.decode(point)
            return found if _is_same(point, self.space.encode(found)) else None
        except ConfigError:
            return None


def mixed(space: StudySpace, candidate: Candidate, shares: Mapping[str, float]) -> Candidate | None:
    """Return a candidate with other weights of the methods; ``None`` where the space holds none."""
    try:
        found = replace(candidate, shape=candidate.shape.with_changes(weights=dict(shares)))
        point = space.encode(found)
        return found if _is_same(point, space.encode(space.decode(point))) else None
    except ConfigError:
        return None


def axes(space: StudySpace, methods: Sequence[str], reference: Candidate) -> list[Axis]:
    """Return the shares that can move, then the parameters that are no shares.

    A space of one's own may write its shares as it likes; where they cannot be moved its parameters all are axes.
    """
    shares = [ShareAxis(space, method, tuple(methods)) for method in methods]
    moving = [axis for axis in shares if any(axis.moved(reference, place) for place in (0.25, 0.5, 0.75))]
    rest = [parameter for parameter in space.parameters() if not (moving and parameter.name.startswith(WEIGHT))]
    return [*moving, *(ParameterAxis(space, parameter) for parameter in rest)]


def _is_same(one: Point, other: Point) -> bool:
    def near(a: Position, b: Position) -> bool:
        if isinstance(a, str) or isinstance(b, str):
            return a == b
        return abs(a - b) <= SAME * max(1.0, abs(a))

    return set(one) == set(other) and all(near(one[name], other[name]) for name in one)
