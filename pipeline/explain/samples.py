"""Responses with their token rewards: what explanations and reports show, row under row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.trials.arm import WINNER
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


def read_samples(content: Sequence[Mapping[str, Any]]) -> tuple[TokenSample, ...]:
    """Return the samples of a study's ``tokens.json``, the winner's row first."""
    return tuple(_sample(values) for values in content)


def _sample(values: Mapping[str, Any]) -> TokenSample:
    tokens = tuple(str(token) for token in values["tokens"])
    rows = [TokenRow(method, tuple(float(v) for v in rewards)) for method, rewards in values["rewards"].items()]
    uneven = [row.method for row in rows if len(row.rewards) != len(tokens)]
    if uneven:
        raise ValueError(f"{', '.join(uneven)}: not one reward for each of {len(tokens)} tokens")
    rows.sort(key=lambda row: row.method != WINNER)
    return TokenSample(str(values["prompt"]), tokens, float(values["score"]), tuple(rows))
