"""The mix together with what the coalition methods play with: their unit and their budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from search_spaces.base import BaselineArm, Point
from search_spaces.credit_mix import CreditMix
from shaping.errors import ConfigError
from shaping.method_names import BY_UNITS
from shaping.shape import ALWAYS_EXACT_UNITS, UNITS, UNITS_WITHIN_TURNS, Shape

if TYPE_CHECKING:
    from search_spaces.base import Parameter, Value

LEAST_BUDGET = 4


@dataclass(frozen=True)
class Full:
    """A search over a ``CreditMix``'s parameters, ``unit`` and ``budget``.

    Args:
        base: Holds everything the space does not vary.
        methods: The methods that are mixed; at least one that scores coalitions, which alone have units.
        gae_lambda: Bounds of ``gae_lambda``; equal bounds fix it.
        balance: Bounds of ``balance``; equal bounds fix it.
        units: The units to choose from; a single one fixes it.
        budget: Bounds of the coalitions scored for a response; equal bounds fix it.

    Raises:
        ConfigError: A value cannot be used, or a parameter would change nothing.
    """

    base: Shape
    methods: tuple[str, ...]
    gae_lambda: tuple[float, float] = (0.6, 1.0)
    balance: tuple[float, float] = (0.0, 1.0)
    units: tuple[str, ...] = UNITS_WITHIN_TURNS
    budget: tuple[int, int] = (16, 128)
    name: str = field(default="full", init=False)

    def __post_init__(self) -> None:
        playing = [name for name in self.mix.methods if name in BY_UNITS]
        if not playing:
            raise ConfigError(
                f"space.methods = {list(self.methods)}: none of them has units", "add shapley, or use credit_mix"
            )
        if not self.units or len(set(self.units)) != len(self.units) or not set(self.units) <= set(UNITS):
            raise ConfigError(f"space.units = {list(self.units)}", f"name some of {', '.join(UNITS)}, each once")
        low, high = self.budget
        if not LEAST_BUDGET <= low <= high:
            raise ConfigError(
                f"space.budget = [{low}, {high}] is not a range from {LEAST_BUDGET} on", "write [low, high]"
            )
        if low < high and (self.base.max_units <= ALWAYS_EXACT_UNITS or self.base.budget_tokens is not None):
            raise ConfigError(
                f"space.budget is searched, but changes nothing with shape.max_units = {self.base.max_units} and "
                f"shape.budget_tokens = {self.base.budget_tokens}",
                f"raise max_units beyond {ALWAYS_EXACT_UNITS} and leave budget_tokens out, or fix space.budget",
            )

    @property
    def mix(self) -> CreditMix:
        """Return the part of the space that says who gets which share."""
        return CreditMix(self.base, self.methods, self.gae_lambda, self.balance)

    @property
    def _names(self) -> list[str]:
        """Names of the parameters, in their order."""
        units = ["unit"] if len(self.units) > 1 else []
        budget = ["budget"] if self.budget[0] < self.budget[1] else []
        return [*self.mix.bounds, *units, *budget]

    def parameters(self) -> list[Parameter]:
        """Return the mix's parameters, then ``unit`` and ``budget`` (on a log scale) where they are not fixed."""
        from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig

        found: list[Parameter] = list(self.mix.parameters())
        if "unit" in self._names:
            ordered = [unit for unit in UNITS if unit in self.units]
            found.append(
                ChoiceParameterConfig(name="unit", values=ordered, parameter_type="str", is_ordered=len(ordered) == 2)
            )
        if "budget" in self._names:
            found.append(RangeParameterConfig(name="budget", parameter_type="int", bounds=self.budget, scaling="log"))
        return found

    def constraints(self) -> list[str]:
        """Return the mix's constraint."""
        return self.mix.constraints()

    @property
    def dimension(self) -> int:
        """Numbers from 0 to 1 that say where a point is: as many as there are parameters."""
        return len(self._names)

    def at(self, numbers: Sequence[float]) -> dict[str, Value]:
        """Return the point at numbers from 0 to 1: the mix's, then the unit, then the budget on its log scale."""
        own = list(numbers[self.mix.dimension :])
        values: dict[str, Value] = dict(self.mix.at(numbers[: self.mix.dimension]))
        if len(self.units) > 1:
            ordered = [unit for unit in UNITS if unit in self.units]
            values["unit"] = ordered[min(int(own.pop(0) * len(ordered)), len(ordered) - 1)]
        if self.budget[0] < self.budget[1]:
            low, high = self.budget
            values["budget"] = self._inside(low * (high / low) ** own.pop(0))
        return values

    def decode(self, point: Point) -> Shape:
        """Return the shape of a point.

        Raises:
            ConfigError: A value is not finite, or the unit is not one of the space's.
        """
        unit = str(point.get("unit", self.units[0]))
        budget = float(point.get("budget", self.budget[0]))
        if unit not in self.units or not math.isfinite(budget):
            raise ConfigError(f"point {dict(point)} is not of this space", f"its units are {', '.join(self.units)}")
        shares = {name: float(value) for name, value in point.items() if name not in ("unit", "budget")}
        return self.mix.decode(shares).with_changes(unit=unit, budget=self._inside(budget))

    def encode(self, shape: Shape) -> dict[str, Value]:
        """Return the point of a shape of this space.

        Raises:
            ConfigError: The shape is outside the space.
        """
        if shape.unit not in self.units:
            raise ConfigError(f"unit = {shape.unit} is not in space.units", f"choose from {', '.join(self.units)}")
        values: dict[str, Value] = {**self.mix.encode(shape), "unit": shape.unit, "budget": shape.budget}
        names = self._names
        return {name: value for name, value in values.items() if name in names}

    def baselines(self) -> list[BaselineArm]:
        """Return the mix's baselines at the base's unit and budget, or the nearest ones that the space holds."""
        unit = self.base.unit if self.base.unit in self.units else self.units[0]
        fixed: dict[str, Value] = {"unit": unit, "budget": self._inside(self.base.budget)}
        names = self._names
        added = {name: value for name, value in fixed.items() if name in names}
        return [BaselineArm(arm.name, {**arm.point, **added}) for arm in self.mix.baselines()]

    def _inside(self, budget: float) -> int:
        return int(min(max(round(budget), self.budget[0]), self.budget[1]))
