"""Koo's simplex: the weights of credit methods with the sparse reward as one of them, and GAE's lambda.

The last weight is what the others leave: sparse's where the balance is searched, else the last method's. A point of
``K`` weights therefore has ``K - 1`` parameters under a linear constraint (Koo et al., arXiv 2504.16272:
``r' = W^T E`` with weights that sum to 1).

A parameter is a share of the whole reward. Weights of methods among each other, times a balance, say the same with
other numbers, but a Gaussian process learns far more slowly from them: where the balance is low the weights change
nothing (`benchmarks/outer/comparison.py` measures both).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from search_spaces.base import BaselineArm, Point
from shaping.errors import ConfigError
from shaping.method_names import METHOD_NAMES, SPARSE
from shaping.shape import Shape

if TYPE_CHECKING:
    from ax.api.configs import RangeParameterConfig

# The lambda at which pure credit methods start; dense credit wants less than the usual 0.95.
DENSE_LAMBDA = 0.8
# A weight below this is rounding, not a choice: it would cost a method's whole price for nothing.
ROUNDING = 1e-9
# Sums of a few weights differ from 1 by less than this when nothing but float64 rounding is in them.
EXACT = 1e-12


@dataclass(frozen=True)
class CreditMix:
    """A search over ``weight_METHOD`` and ``gae_lambda``.

    Args:
        base: Holds everything the space does not vary.
        methods: The methods that are mixed, at least one; sparse takes what they leave.
        gae_lambda: Bounds of ``gae_lambda``; equal bounds fix it.
        balance: Bounds of the methods' weights together. Equal bounds fix it: then the methods' weights sum to 1
            among each other, and the last one's is what the others leave.

    Raises:
        ConfigError: A method is unknown or listed twice, or bounds are out of order or out of [0, 1].
    """

    base: Shape
    methods: tuple[str, ...]
    gae_lambda: tuple[float, float] = (0.6, 1.0)
    balance: tuple[float, float] = (0.0, 1.0)
    name: str = field(default="credit_mix", init=False)

    def __post_init__(self) -> None:
        for method in self.methods:
            if method not in METHOD_NAMES or method == SPARSE:
                known = ", ".join(sorted(set(METHOD_NAMES) - {SPARSE}))
                raise ConfigError(f"space.methods: {method!r} cannot be mixed", f"choose from {known}")
        if not self.methods or len(set(self.methods)) != len(self.methods):
            raise ConfigError(f"space.methods = {list(self.methods)} must name each method once")
        for label, bounds in (("gae_lambda", self.gae_lambda), ("balance", self.balance)):
            if len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1] <= 1:
                raise ConfigError(f"space.{label} = {list(bounds)} is not a range inside [0, 1]", "write [low, high]")
        if self.balance[1] == 0:
            raise ConfigError("space.balance = [0, 0] leaves only the sparse reward", "raise its upper bound")

    @property
    def _is_balanced(self) -> bool:
        """Whether the balance is searched, so that sparse is one of the weights."""
        return self.balance[0] < self.balance[1]

    @property
    def _components(self) -> tuple[str, ...]:
        return (*self.methods, SPARSE) if self._is_balanced else self.methods

    @property
    def _sum(self) -> tuple[float, float]:
        """Bounds of the sum of the weights that are parameters."""
        return self.balance if self._is_balanced else (0.0, 1.0)

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        """Bounds of every parameter: a weight for every component but the last, then lambda where it is not fixed."""
        free = self._components[:-1]
        low, high = self._sum
        bounds = {f"weight_{name}": (low if len(free) == 1 else 0.0, high) for name in free}
        bounds |= {"gae_lambda": self.gae_lambda}
        return {name: pair for name, pair in bounds.items() if pair[0] < pair[1]}

    def parameters(self) -> list[RangeParameterConfig]:
        """Return what has bounds, in the same order."""
        from ax.api.configs import RangeParameterConfig

        return [
            RangeParameterConfig(name=name, parameter_type="float", bounds=pair) for name, pair in self.bounds.items()
        ]

    def constraints(self) -> list[str]:
        """Return the bounds of the sum of the weights, where there are several."""
        free = self._components[:-1]
        if len(free) < 2:
            return []
        low, high = self._sum
        total = " + ".join(f"weight_{name}" for name in free)
        return [f"{total} <= {high:g}"] + ([f"{total} >= {low:g}"] if low > 0 else [])

    @property
    def dimension(self) -> int:
        """Numbers from 0 to 1 that say where a point is: as many as there are parameters."""
        return len(self.bounds)

    def at(self, numbers: Sequence[float]) -> dict[str, float]:
        """Return the point at numbers from 0 to 1; even in the numbers is even in the space.

        The weights' sum has the distribution of its share of the volume, and sorted numbers cut it into weights
        that are uniform on their simplex.
        """
        given, free = list(numbers), self._components[:-1]
        values: dict[str, float] = {}
        low, high = self._sum
        parts = len(free)
        if parts:
            total = (low**parts + given.pop(0) * (high**parts - low**parts)) ** (1 / parts)
            cuts = [0.0, *sorted(given[: parts - 1]), 1.0]
            del given[: parts - 1]
            values = {f"weight_{name}": total * (cuts[i + 1] - cuts[i]) for i, name in enumerate(free)}
        if self.gae_lambda[0] < self.gae_lambda[1]:
            values["gae_lambda"] = self.gae_lambda[0] + given.pop(0) * (self.gae_lambda[1] - self.gae_lambda[0])
        return values

    def decode(self, point: Point) -> Shape:
        """Return the shape of a point; what rounding pushed off the simplex or out of bounds is put back.

        Raises:
            ConfigError: The point is of another space, or a value is not finite.
        """
        if set(point) != set(self.bounds):
            known = ", ".join(sorted(self.bounds))
            raise ConfigError(f"point {dict(point)} is not of this space", f"its parameters are {known}")
        values = {name: float(value) for name, value in point.items()}
        if not all(math.isfinite(value) for value in values.values()):
            raise ConfigError(f"point {dict(point)} holds a value that is not finite")
        *free, last = self._components
        weights = dict(zip(free, self._on_simplex([values[f"weight_{name}"] for name in free]), strict=True))
        weights[last] = _snapped(1 - math.fsum(weights.values()))
        return self.base.with_changes(
            weights=weights,
            balance=1.0 if self._is_balanced else self.balance[0],
            gae_lambda=_inside(values.get("gae_lambda", self.gae_lambda[0]), self.gae_lambda),
        )

    def _on_simplex(self, weights: list[float]) -> list[float]:
        """Return the weights without what rounding added: in their bounds, and their sum in its own."""
        low, high = self._sum
        weights = [_snapped(weight) for weight in weights]
        total = math.fsum(weights)
        # On a face up to rounding, or beyond it: put the sum back, once, so that decoding again changes nothing.
        bound = high if total > high - ROUNDING else low if 0 < total < low + ROUNDING else total
        return [weight * (bound / total) for weight in weights] if abs(total - bound) > EXACT else weights

    def encode(self, shape: Shape) -> dict[str, float]:
        """Return the point of a shape of this space, or of one that means the same.

        Raises:
            ConfigError: The shape gives weight to a method that the space does not mix, or is out of its bounds.
        """
        foreign = {name for name, share in shape.active_methods().items() if share > 0} - {*self.methods, SPARSE}
        if foreign:
            raise ConfigError(f"weights: {', '.join(sorted(foreign))} is not mixed by this space")
        shares = {name: shape.weights.get(name, 0.0) * shape.balance for name in self.methods}
        balance = math.fsum(shares.values())
        for label, value, (low, high) in (
            ("balance", balance, self.balance),
            ("gae_lambda", shape.gae_lambda, self.gae_lambda),
        ):
            if not low - ROUNDING <= value <= high + ROUNDING:
                raise ConfigError(f"{label} = {value:g} is outside space.{label} = [{low:g}, {high:g}]", "widen it")
        if not self._is_balanced:
            among = math.fsum(shape.weights.get(name, 0.0) for name in self.methods)
            # Weights that sum to 1 up to rounding are left alone: divided, they would be another point.
            among = among if abs(among - 1) > EXACT else 1.0
            shares = {name: shape.weights.get(name, 0.0) / among for name in self.methods}
        values = {f"weight_{name}": share for name, share in shares.items()} | {"gae_lambda": shape.gae_lambda}
        bounds = self.bounds
        return {name: value for name, value in values.items() if name in bounds}

    def baselines(self) -> list[BaselineArm]:
        """Return sparse, where the space holds it, then each method alone with the highest weight."""
        arms = [BaselineArm(method, self._point({method: self.balance[1]}, DENSE_LAMBDA)) for method in self.methods]
        sparse = [BaselineArm(SPARSE, self._point({}, self.base.gae_lambda))] if self.balance[0] == 0 else []
        return sparse + arms

    def _point(self, weights: dict[str, float], gae_lambda: float) -> dict[str, float]:
        inside = _inside(gae_lambda, self.gae_lambda)
        complete = {**dict.fromkeys(self.methods, 0.0), **weights, SPARSE: 1 - math.fsum(weights.values())}
        return self.encode(self.base.with_changes(weights=complete, balance=1.0, gae_lambda=inside))


def _snapped(weight: float) -> float:
    return min(weight, 1.0) if weight > ROUNDING else 0.0


def _inside(value: float, bounds: tuple[float, float]) -> float:
    return min(max(float(value), bounds[0]), bounds[1])
