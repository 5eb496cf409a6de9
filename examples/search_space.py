"""A search space of your own, named in a config as ``search_space.py:factory``.

    python examples/search_space.py

This one varies how much of the reward a credit method spreads, and where the residual of its credit goes. The last line
is the check that every space must pass. It takes 1 s on two cores, and prints

    share 0.84, closure last   -> 0.84 prefix + 0.16 sparse, lambda 0.95
    share 0.04, closure spread -> 0.04 prefix + 0.96 sparse, lambda 0.95
    …
    decode and encode are inverse: True
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import shapetune
from search_spaces.base import BaselineArm, Point, Value

CLOSURES = ("first", "last", "spread")


@dataclass(frozen=True)
class SpreadAndClosure:
    """The share of one credit method, and the closure. ``base`` holds all that the space does not vary."""

    base: shapetune.Shape
    method: str
    name: str = "spread_and_closure"

    def parameters(self) -> Sequence[object]:
        """Return the parameters as Ax takes them."""
        from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig

        share = RangeParameterConfig(name="share", parameter_type="float", bounds=(0.0, 1.0))
        return [share, ChoiceParameterConfig(name="closure", parameter_type="str", values=CLOSURES, is_ordered=False)]

    def constraints(self) -> list[str]:
        """Return linear constraints between parameters: there are none."""
        return []

    def decode(self, point: Point) -> shapetune.Shape:
        """Return the shape of a point."""
        share = float(point["share"])
        return self.base.with_changes(weights={self.method: share, "sparse": 1 - share}, closure=point["closure"])

    def encode(self, shape: shapetune.Shape) -> Mapping[str, Value]:
        """Return the point of a shape."""
        return {"share": shape.weights[self.method], "closure": shape.closure}

    def baselines(self) -> list[BaselineArm]:
        """Return what a study runs first: nothing spread, and all of it."""
        ends = {"sparse": 0.0, self.method: 1.0}
        return [BaselineArm(name, {"share": end, "closure": self.base.closure}) for name, end in ends.items()]


def factory(base: shapetune.Shape, methods: Sequence[str], gae_lambda: object, balance: object) -> SpreadAndClosure:
    """Return the space; all four arguments come from the config, and this space needs two of them."""
    return SpreadAndClosure(base, methods[0])


def main() -> bool:
    """Return whether ``decode`` and ``encode`` are inverse on the baselines and on random points."""
    searched = f"space.name={__file__}:factory", "space.methods=[prefix]", "space.trainer=null"
    space, draw = shapetune.load_config("smoke", *searched).make_space(), random.Random(0)
    points: list[Point] = [{"share": draw.random(), "closure": draw.choice(CLOSURES)} for _ in range(3)]
    points += [arm.point for arm in space.baselines()]
    for point in points:
        print(f"share {point['share']:.2f}, closure {point['closure']:6} ->", space.decode(point).describe())
    inverse = all(space.encode(space.decode(point)) == point for point in points)
    print("decode and encode are inverse:", inverse)
    return inverse


if __name__ == "__main__":
    main()
