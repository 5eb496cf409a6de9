"""Koo's simplex: weights of credit methods, their balance with the sparse reward, and GAE's lambda.

The last method's weight is what the others leave, so that a point of ``K`` methods has ``K - 1`` weights under
one linear constraint (Koo et al., arXiv 2504.16272: ``r' = W^T E`` with weights that sum to 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from search_spaces.base import BaselineArm, Point
from shaping.credit import METHODS
from shaping.errors import ConfigError
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
    """A search over ``weight_METHOD``, ``balance`` and ``gae_lambda``.

    Args:
        base: Holds everything the space does not vary.
        methods: The methods that are mixed, at least one; sparse enters through ``balance``.
        gae_lambda: Bounds of ``gae_lambda``; equal bounds fix it.
        balance: Bounds of ``balance``; equal bounds fix it.

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
            if method not in METHODS or method == "sparse":
                known = ", ".join(sorted(set(METHODS) - {"sparse"}))
                raise ConfigError(f"space.methods: {method!r} cannot be mixed", f"choose from {known}")
        if not self.methods or len(set(self.methods)) != len(self.methods):
            raise ConfigError(f"space.methods = {list(self.methods)} must name each method once")
        for label, bounds in (("gae_lambda", self.gae_lambda), ("balance", self.balance)):
            if len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1] <= 1:
                raise ConfigError(f"space.{label} = {list(bounds)} is not a range inside [0, 1]", "write [low, high]")
        if self.balance[1] == 0:
            raise ConfigError("space.balance = [0, 0] leaves only the sparse reward", "raise its upper bound")

    @property
    def _free(self) -> tuple[str, ...]:
        return self.methods[:-1]

    def parameters(self) -> list[RangeParameterConfig]:
        """Return one weight for every method but the last, then the ranges that are not fixed."""
        from ax.api.configs import RangeParameterConfig

        bounds = {f"weight_{method}": (0.0, 1.0) for method in self._free}
        bounds |= {"balance": self.balance, "gae_lambda": self.gae_lambda}
        return [
            RangeParameterConfig(name=name, parameter_type="float", bounds=pair)
            for name, pair in bounds.items()
            if pair[0] < pair[1]
        ]

    def constraints(self) -> list[str]:
        """Return ``sum of free weights <= 1``."""
        return [" + ".join(f"weight_{method}" for method in self._free) + " <= 1"] if len(self._free) > 1 else []

    def decode(self, point: Point) -> Shape:
        """Return the shape of a point; what rounding pushed off the simplex or out of bounds is put back.

        Raises:
            ConfigError: A value is not finite.
        """
        values = {name: float(value) for name, value in point.items()}
        if not all(math.isfinite(value) for value in values.values()):
            raise ConfigError(f"point {dict(point)} holds a value that is not finite")
        free = [_snapped(values[f"weight_{method}"]) for method in self._free]
        total = math.fsum(free)
        # On the face up to rounding, or beyond it: put the sum back on 1, once, so that decoding again changes nothing.
        if total > 1 - ROUNDING and abs(total - 1) > EXACT:
            free = [weight / total for weight in free]
        weights = dict(zip(self._free, free, strict=True))
        weights[self.methods[-1]] = _snapped(1 - math.fsum(free))
        return self.base.with_changes(
            weights=weights,
            balance=_inside(values.get("balance", self.balance[0]), self.balance),
            gae_lambda=_inside(values.get("gae_lambda", self.gae_lambda[0]), self.gae_lambda),
        )

    def encode(self, shape: Shape) -> dict[str, float]:
        """Return the point of a shape of this space.

        Raises:
            ConfigError: The shape gives weight to a method that the space does not mix, or is out of its bounds.
        """
        foreign = {name for name, weight in shape.weights.items() if weight > 0} - set(self.methods)
        if foreign:
            raise ConfigError(f"weights: {', '.join(sorted(foreign))} is not mixed by this space")
        for label, value, (low, high) in (
            ("balance", shape.balance, self.balance),
            ("gae_lambda", shape.gae_lambda, self.gae_lambda),
        ):
            if not low <= value <= high:
                raise ConfigError(f"{label} = {value:g} is outside space.{label} = [{low:g}, {high:g}]", "widen it")
        values = {f"weight_{method}": shape.weights.get(method, 0.0) for method in self._free}
        values |= {"balance": shape.balance, "gae_lambda": shape.gae_lambda}
        names = {parameter.name for parameter in self.parameters()}
        return {name: value for name, value in values.items() if name in names}

    def baselines(self) -> list[BaselineArm]:
        """Return sparse, where the space holds it, then each method alone at the highest balance."""
        equal = {method: 1 / len(self.methods) for method in self.methods}
        arms = []
        if self.balance[0] == 0:
            arms.append(BaselineArm("sparse", self._point(equal, 0.0, self.base.gae_lambda)))
        for method in self.methods:
            arms.append(BaselineArm(method, self._point({method: 1.0}, self.balance[1], DENSE_LAMBDA)))
        return arms

    def _point(self, weights: dict[str, float], balance: float, gae_lambda: float) -> dict[str, float]:
        low, high = self.gae_lambda
        complete = {method: weights.get(method, 0.0) for method in self.methods}
        inside = min(max(gae_lambda, low), high)
        return self.encode(self.base.with_changes(weights=complete, balance=balance, gae_lambda=inside))


def _snapped(weight: float) -> float:
    return min(weight, 1.0) if weight > ROUNDING else 0.0


def _inside(value: float, bounds: tuple[float, float]) -> float:
    return min(max(float(value), bounds[0]), bounds[1])
