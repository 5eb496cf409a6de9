"""Signal, bias and noise of gradient estimators, from the inner products of gradients that groups of responses gave.

A group's gradient is the mean over its responses, and groups are independent. Products of different groups are
therefore unbiased for the products of expectations, however noisy each gradient is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.stats import t as student
from torch import Tensor


@dataclass(frozen=True)
class Measured:
    """A number with the 95 % interval that the jackknife over groups gives."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Quality:
    """An estimator against the true gradient.

    Attributes:
        cosine: Of its expectation and the true gradient: 1 without bias, but for the length, which optimisers that
            divide by it do not see.
        noise: Trace of one response's covariance over the squared length of the expectation.
        alignment: Cosine of one batch's gradient and the true one, on average: what of a step goes the right way.
        advantage: ``alignment`` over that of the rival.
    """

    cosine: Measured
    noise: Measured
    alignment: Measured
    advantage: Measured


def gram(gradients: Tensor, block: int = 65_536) -> Tensor:
    """Return all inner products of gradients: ``E x J x E x J`` in double precision.

    Args:
        gradients: ``E x J x P``: of each estimator, from each group, with respect to ``P`` parameters.
        block: Parameters multiplied at once.
    """
    estimators, groups, _ = gradients.shape
    rows = gradients.flatten(0, 1)
    found = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for part in torch.split(rows, block, dim=1):
        found += (part @ part.T).double()
    return found.view(estimators, groups, estimators, groups)


def mixed(gram: Tensor, shares: Tensor) -> Tensor:
    """Return the inner products of mixtures: rewards are linear in their shares, and so is a gradient in rewards.

    Args:
        gram: ``E x J x E x J``.
        shares: ``M x E``: of each estimator in each mixture.
    """
    return torch.einsum("me,ejfl,nf->mjnl", shares, gram, shares)


def qualities(gram: Tensor, truth: int, rival: int, group: int, batch: int) -> list[Quality]:
    """Return how good every estimator is.

    Args:
        gram: ``E x J x E x J`` inner products.
        truth: Place of an estimator that is known to be unbiased.
        rival: Place of another one, with more noise, that ``advantage`` compares with.
        group: Responses of a group.
        batch: Responses of a training step.
    """
    whole = _numbers(*_moments(gram), truth, rival, group, batch)
    groups = gram.shape[1]
    others = [[place for place in range(groups) if place != left] for left in range(groups)]
    without = torch.stack(
        [_numbers(*_moments(gram[:, rows][..., rows]), truth, rival, group, batch) for rows in others]
    )
    half = float(student.ppf(0.975, groups - 1)) * _jackknife_error(without)
    return [
        Quality(*(Measured(*map(float, each)) for each in zip(row, row - wide, row + wide, strict=True)))
        for row, wide in zip(whole, half, strict=True)
    ]


def _moments(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return products of expectations (``E x E``) and the trace of a group gradient's covariance (``E``)."""
    groups = gram.shape[1]
    same = torch.einsum("ejfj->ef", gram)
    products = (gram.sum(dim=(1, 3)) - same) / (groups * (groups - 1))
    return products, same.diagonal() / groups - products.diagonal()


def _numbers(products: Tensor, traces: Tensor, truth: int, rival: int, group: int, batch: int) -> Tensor:
    """Return cosine, noise, alignment and advantage of every estimator: ``E x 4``.

    Where the sample does not even tell an expectation's length from zero, there is neither cosine nor noise.
    """
    squares = products.diagonal()
    lengths = torch.where(squares > 0, squares, torch.full_like(squares, math.nan)).sqrt()
    # Both have the same expectation, and the less noisy one tells its length better.
    lengths[rival] = lengths[truth]
    along = products[:, truth] / lengths[truth]
    # Noise makes a batch's gradient long: its squared length is known even where the expectation's is not.
    alignment = along / (squares + traces * group / batch).sqrt()
    noise = group * traces / lengths**2
    return torch.stack([along / lengths, noise, alignment, alignment / alignment[rival]], dim=1)


def _jackknife_error(without: Tensor) -> Tensor:
    """Return standard errors from estimates that leave one group out each: the first dimension goes."""
    groups = len(without)
    return ((without - without.mean(dim=0)) ** 2).sum(dim=0).mul((groups - 1) / groups).sqrt()
