"""What a search space is: parameters for Ax, and the way between a point and a shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from shaping.shape import Shape

if TYPE_CHECKING:
    # Ax takes seconds to import; a trial's worker decodes no points and never needs it.
    from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig

    Parameter: TypeAlias = RangeParameterConfig | ChoiceParameterConfig

Value = float | int | str
Point = Mapping[str, Value]


@dataclass(frozen=True)
class Candidate:
    """What a trial tries.

    Attributes:
        shape: Where the reward falls.
        trainer: The trainer's settings that are searched, by their place in the config: ``ppo.critic``.
    """

    shape: Shape
    trainer: Mapping[str, Value] = field(default_factory=dict)

    def describe(self) -> str:
        """Return both in words."""
        return "; ".join([self.shape.describe(), *map(setting_words, self.trainer.items())])


def setting_words(setting: tuple[str, Value]) -> str:
    """Return a setting's name and value in words: ``learning rate 0.0004``."""
    name, value = setting
    shown = f"{value:.3g}" if isinstance(value, float) else str(value).replace("_", " ")
    return f"{name.rpartition('.')[2].replace('_', ' ')} {shown}"


@dataclass(frozen=True)
class BaselineArm:
    """An arm that every study of a space runs first, so that proposals have something to beat."""

    name: str
    point: Mapping[str, Value]


class SearchSpace(Protocol):
    """A space of shapes."""

    @property
    def name(self) -> str:
        """Name in configs."""
        ...

    def parameters(self) -> Sequence[Parameter]:
        """Return the parameters, in the order of the point's keys."""
        ...

    def constraints(self) -> list[str]:
        """Return linear constraints in Ax's notation."""
        ...

    def decode(self, point: Point) -> Shape:
        """Return the shape of a point."""
        ...

    def encode(self, shape: Shape) -> Mapping[str, Value]:
        """Return the point of a shape; ``decode(encode(shape)) == shape`` for every shape of the space."""
        ...

    def baselines(self) -> list[BaselineArm]:
        """Return the arms to run first; the first one is sparse, the status quo, where the space holds it."""
        ...


@runtime_checkable
class Fillable(Protocol):
    """A space that knows how to be filled evenly: a cube is mapped onto it so that volumes keep their proportions."""

    @property
    def dimension(self) -> int:
        """Numbers from 0 to 1 that say where a point is."""
        ...

    def at(self, numbers: Sequence[float]) -> dict[str, Value]:
        """Return the point at numbers from 0 to 1."""
        ...
