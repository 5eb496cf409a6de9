"""How near credit is to a truth, response by response."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

Values = NDArray[np.float64]
# Credit is found in single precision, some of it by a regression.
DIGITS = 4


@dataclass(frozen=True)
class Agreement:
    """One number for each response that has a truth to be found: one whose true values are not all alike.

    Attributes:
        correlation: Pearson's. Credit that is equal everywhere tells no token from another and has 0.
        rank_correlation: Spearman's, likewise.
        error: ``|credit - truth| / |truth|``; 0 is perfect, credit of nothing has 1.
    """

    correlation: Values
    rank_correlation: Values
    error: Values


def agreement(credit: Tensor, truth: Tensor) -> Agreement:
    """Return how credit (``B x T``) agrees with the truth (``B x T``)."""
    found, true = credit.double().numpy(), truth.double().numpy()
    told = np.ptp(true, axis=1) > 0
    found, true = found[told], true[told]
    error = np.linalg.norm(found - true, axis=1) / np.linalg.norm(true, axis=1)
    found, true = rounded(found), rounded(true)
    pearson, spearman = correlations(found, true), correlations(found, true, ranks=True)
    return Agreement(np.nan_to_num(pearson, nan=0.0), np.nan_to_num(spearman, nan=0.0), error)


def rounded(values: Values) -> Values:
    """Return rows over their largest size, rounded: what differs by an arithmetic's last digits must rank alike."""
    largest = np.abs(values).max(axis=1, keepdims=True)
    found: Values = np.round(values / np.where(largest > 0, largest, 1.0), DIGITS)
    return found


def correlations(ours: Values, theirs: Values, ranks: bool = False) -> Values:
    """Return the correlation of each row of both; not a number where one of them is constant."""
    varied = (np.ptp(ours, axis=1) > 0) & (np.ptp(theirs, axis=1) > 0)
    a, b = (rankdata(each, axis=1) if ranks else each for each in (ours, theirs))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    # Rounding must not make a correlation of more than 1.
    return np.where(varied, np.clip((a * b).sum(axis=1) / np.where(varied, size, 1.0), -1, 1), np.nan)
