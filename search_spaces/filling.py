"""Points that fill a space evenly: a scrambled Sobol sequence, mapped onto the space.

Rejecting the points of a cube that miss a simplex works for three methods; of nine methods' simplex hardly a point of
a cube is a part.
"""

from __future__ import annotations

from search_spaces.base import Fillable, Value


def filling(space: Fillable, count: int, seed: int) -> list[dict[str, Value]]:
    """Return the first points of the sequence that the seed scrambles."""
    if count == 0:
        return []
    # With torch, which takes seconds to import: every process that reads a config reads this file, too.
    from torch.quasirandom import SobolEngine

    engine = SobolEngine(space.dimension, scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    return [space.at([float(number) for number in row]) for row in engine.draw(count)]
