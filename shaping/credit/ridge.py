"""Ridge regression of many rows of targets on one design, its strength chosen by what it costs.

Two rules choose. Generalised cross-validation takes all that a fit leaves for noise. That is right while every equation
is a draw from many. Where some are all that there are of their kind, what they leave is no noise, since the exact
solution leaves it as well, and cross-validation shrinks too much. Stein's unbiased estimate of the risk then counts the
noise of drawn equations alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Strengths relative to the mean squared singular value of the design. The first only keeps rank-deficient designs
# solvable; the last leaves next to nothing of the data.
STRENGTHS = (1e-6, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
SINGULAR = 1e-9
TINY = 1e-12
# With fewer rows the cross-validation error is flat and rounding would choose.
FEWEST_ROWS = 3
# An equation that alone decides its own fit tells nothing of the noise.
LEAST_FREEDOM = 0.05


@dataclass(frozen=True)
class Design:
    """A weighted design, decomposed: ``U diag(s) V'``, with ``q`` singular values that are not zero.

    Attributes:
        left: ``p x q``.
        singular: ``q``.
        right: ``N x q``.
        root_weights: ``p``.
    """

    left: Tensor
    singular: Tensor
    right: Tensor
    root_weights: Tensor

    @classmethod
    def of(cls, rows: Tensor, weights: Tensor) -> Design:
        """Return the design of ``rows`` (``p x N``) with weights (``p``), scaled to sum to 1."""
        root = (weights / weights.sum()).sqrt()
        left, singular, right = torch.linalg.svd(root[:, None] * rows, full_matrices=False)
        real = singular > SINGULAR * singular.amax(dim=-1, keepdim=True)
        return cls(left[:, real], singular[real], right.mT[:, real], root)

    def coordinates(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the targets (``R x p``) in the design's own directions (``R x q``), and their weighted squares."""
        weighted = targets * self.root_weights
        return weighted @ self.left, (weighted**2).sum(dim=1)

    def solve(self, targets: Tensor, strength: float) -> Tensor:
        """Return ``R x N`` coefficients under a relative strength."""
        found, _ = self.coordinates(targets)
        return (found * self.singular / (self.singular**2 + self._penalty(strength))) @ self.right.mT

    def best_strength(self, targets: Tensor) -> float:
        """Return the strength of least generalised cross-validation error, all rows of targets together.

        Golub, Heath and Wahba (1979): residual sum of squares over the squared degrees of freedom that are left.
        Each row counts by what it leaves of its own sum of squares: one row alone often misleads.
        """
        if len(self.root_weights) < FEWEST_ROWS:
            return 1.0
        found, squares = self.coordinates(targets)
        errors = []
        for strength in STRENGTHS:
            residual, freedom = self._residual(found, squares, strength)
            errors.append(float((residual / squares.clamp(min=TINY)).mean()) / freedom**2)
        return STRENGTHS[errors.index(min(errors))]

    def least_risk(self, targets: Tensor, unseen: Tensor, factor: float = 1.0) -> float:
        """Return the strength of least estimated squared error of the coefficients, all rows of targets together.

        Stein (1981): with coefficients ``b`` of least squares, their sampling variances ``v``, and the share ``k`` of
        a direction that a ridge keeps, ``sum (1 - k)^2 b^2 + 2 k v - v`` has the ridge's squared error as its mean.
        Each row counts relative to its own size.

        Args:
            targets: ``R x p``.
            unseen: For each equation (``p``) the share of its kind that was not drawn: 0 where all were.
            factor: Each strength is judged, and is meant to be used, times this.
        """
        found, _ = self.coordinates(targets)
        left = targets * self.root_weights - found @ self.left.mT
        freedom = (1 - (self.left**2).sum(dim=1)).clamp(min=LEAST_FREEDOM)
        noise = (left**2 / freedom * unseen) @ self.left**2
        squares, variances = (found / self.singular) ** 2, noise / self.singular**2
        size = (squares + variances).sum(dim=1).clamp(min=TINY)
        risks = []
        for strength in STRENGTHS:
            kept = self._kept(strength * factor)
            risk = ((1 - kept) ** 2 * squares + (2 * kept - 1) * variances).sum(dim=1)
            risks.append(float((risk / size).mean()))
        return STRENGTHS[risks.index(min(risks))]

    def shrinkage_variance(self, targets: Tensor, strength: float) -> Tensor:
        """Return ``R x N`` expected squares of what the ridge takes away from the coefficients.

        The ridge of strength ``l`` is the posterior mean under coefficients of variance ``noise / l``; a direction
        that it keeps to a share ``k`` of itself misses ``(1 - k)^2`` of that, one that the design never sees all.
        """
        found, squares = self.coordinates(targets)
        residual, freedom = self._residual(found, squares, strength)
        prior = residual / freedom / self._penalty(strength)
        missed = self.right**2 @ (1 - self._kept(strength)) ** 2
        units = self.right.shape[0]
        # Rows of the design sum to 0: the constant direction is not the ridge's to choose.
        unseen = (1 - 1 / units - (self.right**2).sum(dim=1)).clamp(min=0)
        return prior[:, None] * (missed + unseen)

    def _penalty(self, strength: float) -> Tensor:
        return strength * (self.singular**2).mean()

    def _kept(self, strength: float) -> Tensor:
        return self.singular**2 / (self.singular**2 + self._penalty(strength))

    def _residual(self, found: Tensor, squares: Tensor, strength: float) -> tuple[Tensor, float]:
        """Return each row's residual sum of squares, and the degrees of freedom that are left."""
        kept = self._kept(strength)
        outside = (squares - (found**2).sum(dim=1)).clamp(min=0)
        freedom = len(self.root_weights) - float(kept.sum())
        return outside + (found**2) @ ((1 - kept) ** 2), max(freedom, TINY)
