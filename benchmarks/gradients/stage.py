"""What was found at one point of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.gradients.field import Row
from benchmarks.gradients.moments import Quality


@dataclass(frozen=True)
class Stage:
    """What was found at a point of training.

    Attributes:
        steps: Of sparse PPO that the policy had behind it.
        qualities: Of every row; the first is the true gradient's own estimate.
        responses: That were sampled.
        wall_seconds: That it took.
    """

    steps: int
    qualities: Mapping[Row, Quality]
    responses: int
    wall_seconds: float
