"""Settings of the trainer as parameters of a search: a range, or a choice among values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from search_spaces.base import Value
from shaping.errors import ConfigError

if TYPE_CHECKING:
    from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig


@dataclass(frozen=True)
class SettingRange:
    """A number between bounds.

    Attributes:
        name: Its place in the config: ``ppo.learning_rate``.
        low: The least.
        high: The most.
        log: Whether it is searched on a log scale.
        whole: Whether it is a whole number.

    Raises:
        ConfigError: Bounds are out of order, no numbers, not whole where the setting is, or a log scale has none
            above 0.
    """

    name: str
    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        where = f"space.trainer.{self.name}"
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigError(f"{where} = [{self.low:g}, {self.high:g}] is no range", "give low below high")
        if self.log and self.low <= 0:
            raise ConfigError(f"{where}: a log scale cannot begin at low = {self.low:g}", "raise low above 0")
        if self.whole and (self.low != int(self.low) or self.high != int(self.high)):
            raise ConfigError(f"{where} = [{self.low:g}, {self.high:g}]: it is a whole number", "give whole bounds")

    def parameter(self) -> RangeParameterConfig:
        """Return the parameter for Ax."""
        from ax.api.configs import RangeParameterConfig

        kind, scaling = ("int" if self.whole else "float"), ("log" if self.log else None)
        bounds = (self.as_value(self.low), self.as_value(self.high))
        return RangeParameterConfig(name=self.name, parameter_type=kind, bounds=bounds, scaling=scaling)

    def at(self, number: float) -> Value:
        """Return the value at a number from 0 to 1, even on the scale that is searched."""
        if self.log:
            return self.inside(self.low * (self.high / self.low) ** number)
        return self.inside(self.low + (self.high - self.low) * number)

    def as_value(self, number: float) -> int | float:
        """Return a number as the setting is written."""
        return round(number) if self.whole else float(number)

    def inside(self, value: Value) -> Value:
        """Return a value without what rounding pushed out of the bounds.

        Raises:
            ConfigError: It is no number.
        """
        if isinstance(value, str) or not math.isfinite(value):
            raise ConfigError(f"{self.name} = {value!r} is no number")
        return self.as_value(min(max(value, self.low), self.high))

    def holds(self, value: Value) -> bool:
        """Return whether a value is inside the bounds, but for rounding."""
        if isinstance(value, str):
            return False
        slack = 1e-9 * max(abs(self.low), abs(self.high))
        return self.low - slack <= value <= self.high + slack

    def words(self) -> str:
        """Return the bounds for a message."""
        return f"[{self.low:g}, {self.high:g}]"


@dataclass(frozen=True)
class SettingChoice:
    """One of several values; numbers are in order, words are not.

    Attributes:
        name: Its place in the config: ``ppo.critic``.
        choices: The values.

    Raises:
        ConfigError: There are fewer than two, one is named twice, or numbers and words are mixed.
    """

    name: str
    choices: tuple[Value, ...]

    def __post_init__(self) -> None:
        where, distinct = f"space.trainer.{self.name} = {list(self.choices)}", set(self.choices)
        if len(distinct) != len(self.choices):
            raise ConfigError(f"{where} names a value twice", "name each once")
        if len(distinct) < 2:
            raise ConfigError(f"{where} leaves no choice", f"name two values or more, or set {self.name} itself")
        if len({isinstance(value, str) for value in distinct}) > 1:
            raise ConfigError(f"{where} mixes numbers and words", "name values of one kind")

    @property
    def _in_order(self) -> tuple[Value, ...]:
        return self.choices if self._has_words else tuple(sorted(self.choices))

    @property
    def _has_words(self) -> bool:
        return isinstance(self.choices[0], str)

    def parameter(self) -> ChoiceParameterConfig:
        """Return the parameter for Ax."""
        from ax.api.configs import ChoiceParameterConfig

        kind = "str" if self._has_words else "int" if all(isinstance(each, int) for each in self.choices) else "float"
        is_ordered = not self._has_words or len(self.choices) == 2
        return ChoiceParameterConfig(
            name=self.name,
            values=list(self._in_order),
            parameter_type=kind,
            is_ordered=is_ordered,
        )

    def at(self, number: float) -> Value:
        """Return the value at a number from 0 to 1."""
        return self._in_order[min(int(number * len(self.choices)), len(self.choices) - 1)]

    def inside(self, value: Value) -> Value:
        """Return the value.

        Raises:
            ConfigError: It is none of the choices.
        """
        found = next((each for each in self.choices if each == value), None)
        if found is None:
            raise ConfigError(f"{self.name} = {value!r} is none of {self.words()}")
        return found

    def holds(self, value: Value) -> bool:
        """Return whether a value is one of the choices."""
        return value in self.choices

    def words(self) -> str:
        """Return the choices for a message."""
        return ", ".join(map(str, self.choices))


Setting: TypeAlias = SettingRange | SettingChoice
