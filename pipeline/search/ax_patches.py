"""Keeps points on a simplex face among Ax's pending and observed points.

Ax 1.3 tests ``A x <= b`` without tolerance, while its acquisition puts points on faces up to rounding: running
trials there vanish from the pending points and are proposed again. This widens ``b`` and the bounds by far less
than any two proposals differ.
"""

from __future__ import annotations

from typing import Any

import ax.generators.torch.utils as torch_utils
from ax.generators.utils import filter_constraints_and_fixed_features

TOLERANCE = 1e-8


def tolerant_filter(
    X: Any, bounds: Any, linear_constraints: Any = None, fixed_features: dict[int, float] | None = None
) -> Any:
    """Return the points of ``X`` inside bounds and constraints, with a tolerance of 1e-8."""
    if linear_constraints is not None:
        matrix, limit = linear_constraints
        linear_constraints = (matrix, limit + TOLERANCE)
    wider = [(low - TOLERANCE, high + TOLERANCE) for low, high in bounds]
    return filter_constraints_and_fixed_features(X, wider, linear_constraints, fixed_features)


def install() -> None:
    """Make Ax use the tolerant filter in this process."""
    torch_utils.filter_constraints_and_fixed_features = tolerant_filter
