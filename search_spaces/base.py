"""What a search space is: parameters for Ax, and the way between a point and a shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from shaping.shape import Shape

if TYPE_CHECKING:
    # Ax takes seconds to import; a trial's worker decodes no points and never needs it.
    from ax.api.configs import RangeParameterConfig

Point = Mapping[str, float]


@dataclass(frozen=True)
class BaselineArm:
    """An arm that every study of a space runs first, so that proposals have something to beat."""

    name: str
    point: dict[str, float]


class SearchSpace(Protocol):
    """A space of shapes."""

    @property
    def name(self) -> str:
        """Name in configs."""
        ...

    def parameters(self) -> list[RangeParameterConfig]:
        """Return the parameters, in the order of the point's keys."""
        ...

    def constraints(self) -> list[str]:
        """Return linear constraints in Ax's notation."""
        ...

    def decode(self, point: Point) -> Shape:
        """Return the shape of a point."""
        ...

    def encode(self, shape: Shape) -> dict[str, float]:
        """Return the point of a shape; ``decode(encode(shape)) == shape`` for every shape of the space."""
        ...

    def baselines(self) -> list[BaselineArm]:
        """Return the arms to run first; the first one is sparse, the status quo, where the space holds it."""
        ...
