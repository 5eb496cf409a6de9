"""Integrated gradients on input embeddings (Sundararajan et al., arXiv 1703.01365).

    phi_t = (e_t - b) . integral over a in [0, 1] of the score's gradient at b + a (e - b)

with ``b`` the mean embedding of the vocabulary: a token that says nothing in particular. Zero would be no token at
all, and a model that normalises its inputs cannot even see how far from zero it stands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Of the quadrature: a layout of rows is as right, or as wrong, at each point of the path, so that a trial looks at few.
TRIAL_POINTS = 2


def integrated_gradients(
    embedding: Any, score: Callable[[Tensor], Tensor], ids: Tensor, replaced: Tensor, steps: int
) -> Tensor:
    """Return ``B x L`` attributions of the tokens in ``replaced`` (``B x L``), zero elsewhere.

    Args:
        embedding: The model's embedding of ids, a module with its table as ``weight``.
        score: From embeddings ``B x L x d`` to ``B`` scores.
        ids: ``B x L``.
        replaced: The tokens that the path starts without.
        steps: Points of the Gauss-Legendre quadrature.
    """
    points, weights = _gauss_legendre(steps)
    # The whole computation leaves inference mode: its tensors cannot be differentiated.
    with torch.inference_mode(False), torch.enable_grad():
        own = embedding(ids.clone()).detach()
        # Some embeddings scale what they look up.
        mean = embedding.weight.mean(dim=0) * getattr(embedding, "embed_scale", 1.0)
        baseline = torch.where(replaced.clone()[..., None], mean.to(own.dtype), own)
        difference = own - baseline
        total = torch.zeros_like(own)
        for point, weight in zip(points, weights, strict=True):
            place = (baseline + point * difference).requires_grad_(True)
            # A copy: some models change what they are given in place.
            (gradient,) = torch.autograd.grad(score(place.clone()).sum(), place)
            total = total + weight * gradient
        found: Tensor = (difference.float() * total.float()).sum(dim=2)
        return found


def _gauss_legendre(count: int) -> tuple[list[float], list[float]]:
    """Return points and weights on [0, 1], by the eigenvalues of Jacobi's matrix (Golub and Welsch, 1969)."""
    order = torch.arange(1, count, dtype=torch.float64)
    beside = order / (4 * order**2 - 1).sqrt()
    points, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    return ((points + 1) / 2).tolist(), (vectors[0] ** 2).tolist()
