"""All that a study searches: a space of shapes, and settings of the trainer beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from search_spaces.base import BaselineArm, Candidate, Fillable, Point, SearchSpace, Value
from search_spaces.rivals import sparse_rivals
from search_spaces.trainer_settings import Setting
from shaping.errors import ConfigError
from shaping.method_names import SPARSE

if TYPE_CHECKING:
    from search_spaces.base import Parameter


@dataclass(frozen=True)
class StudySpace:
    """The space of candidates. A point holds a shape's parameters, then the trainer's settings under their names.

    Args:
        shapes: The space of shapes.
        settings: What is searched of the trainer; nothing where the shape alone is.
        defaults: The study's own value of each of them.
    """

    shapes: SearchSpace
    settings: tuple[Setting, ...] = ()
    defaults: Mapping[str, Value] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the space of shapes in configs."""
        return self.shapes.name

    def parameters(self) -> list[Parameter]:
        """Return the shapes' parameters, then the settings'."""
        return [*self.shapes.parameters(), *(each.parameter() for each in self.settings)]

    def constraints(self) -> list[str]:
        """Return the shapes' constraints: settings have none."""
        return self.shapes.constraints()

    def decode(self, point: Point) -> Candidate:
        """Return the candidate of a point.

        Raises:
            ConfigError: The point is of another space.
        """
        own = {each.name for each in self.settings}
        if missing := own - set(point):
            raise ConfigError(f"point {dict(point)} is not of this space", f"it lacks {', '.join(sorted(missing))}")
        shape = self.shapes.decode({name: value for name, value in point.items() if name not in own})
        return Candidate(shape, {each.name: each.inside(point[each.name]) for each in self.settings})

    def encode(self, candidate: Candidate) -> dict[str, Value]:
        """Return the point of a candidate; a setting that it does not name has the study's value.

        Raises:
            ConfigError: It is outside the space.
        """
        point = dict(self.shapes.encode(candidate.shape))
        known = {each.name for each in self.settings}
        if foreign := set(candidate.trainer) - known:
            raise ConfigError(f"{', '.join(sorted(foreign))} is not searched", "add it to space.trainer")
        for each in self.settings:
            value = candidate.trainer.get(each.name, self.defaults[each.name])
            if not each.holds(value):
                raise ConfigError(
                    f"{each.name} = {value} is outside space.trainer.{each.name}: {each.words()}", "widen it"
                )
            point[each.name] = each.inside(value)
        return point

    def baselines(self) -> list[BaselineArm]:
        """Return the arms to run first: the shapes' own, and where the trainer is searched, the rivals of all credit.

        Sparse reward at the study's settings is the first one, its variants follow, then the methods alone.
        """
        defaults = {each.name: self.defaults[each.name] for each in self.settings}
        arms = [BaselineArm(arm.name, {**arm.point, **defaults}) for arm in self.shapes.baselines()]
        sparse = next((arm for arm in arms if arm.name == SPARSE), None)
        if sparse is None or not self.settings:
            return arms
        found = [BaselineArm(name, point) for name, point in self._rivals(sparse.point) if point != sparse.point]
        return [sparse, *found, *(arm for arm in arms if arm is not sparse)]

    def _rivals(self, sparse: Point) -> list[tuple[str, dict[str, Value]]]:
        rivals = []
        for name, candidate in sparse_rivals(self.decode(sparse), self.settings):
            try:
                rivals.append((name, self.encode(candidate)))
            except ConfigError:  # a space of narrower bounds does without
                continue
        return rivals

    @property
    def is_fillable(self) -> bool:
        """Whether the space knows how to be filled evenly."""
        return isinstance(self.shapes, Fillable)

    @property
    def dimension(self) -> int:
        """Numbers from 0 to 1 that say where a point is."""
        assert isinstance(self.shapes, Fillable)
        return self.shapes.dimension + len(self.settings)

    def at(self, numbers: Sequence[float]) -> dict[str, Value]:
        """Return the point at numbers from 0 to 1: the shape's, then the settings'."""
        assert isinstance(self.shapes, Fillable)
        of_shape = self.shapes.dimension
        own = {each.name: each.at(number) for each, number in zip(self.settings, numbers[of_shape:], strict=True)}
        return {**self.shapes.at(numbers[:of_shape]), **own}
