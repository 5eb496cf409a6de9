"""What the search hands out, and what it takes from another study: trials as plain records, without Ax."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from search_spaces.base import Candidate, Value
from shaping.shape import Shape


@dataclass(frozen=True)
class Proposal:
    """A trial to run: its index in the database, its arm's name, what it tries and how it came about."""

    index: int
    arm: str
    candidate: Candidate
    origin: str

    @property
    def shape(self) -> Shape:
        """Where the reward falls."""
        return self.candidate.shape

    @property
    def trainer(self) -> Mapping[str, Value]:
        """The trainer's settings that it chose."""
        return self.candidate.trainer


@dataclass(frozen=True)
class EarlierTrial:
    """A trial of another study on the same task and space, which is as good as one of this study's.

    Attributes:
        arm: Its name here.
        candidate: What was tried.
        values: Seed to objective.
        tracked: Name to value of what else was measured.
    """

    arm: str
    candidate: Candidate
    values: Mapping[int, float]
    tracked: Mapping[str, float]
