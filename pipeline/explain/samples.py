"""Responses with their token rewards: what explanations and reports show, row under row."""

from __future__ import annotations

import math
from dataclasses import dataclass

from shaping.certificate import TOLERANCE


@dataclass(frozen=True)
class TokenRow:
    """One response's token rewards under one method, in reward-model units."""

    method: str
    rewards: tuple[float, ...]

    @property
    def total(self) -> float:
        """The row's sum."""
        return math.fsum(self.rewards)


@dataclass(frozen=True)
class TokenSample:
    """A real response and where its reward falls under every method, winner first."""

    prompt: str
    tokens: tuple[str, ...]
    score: float
    rows: tuple[TokenRow, ...]

    def keeps_sum(self, row: TokenRow) -> bool:
        """Return whether the row sums to the score, within the certificate's tolerance."""
        return abs(row.total - self.score) <= TOLERANCE * max(1.0, abs(self.score))
