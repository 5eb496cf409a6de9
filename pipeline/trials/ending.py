"""How a trial of a stage ended."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.trials.run import Outcome


@dataclass(frozen=True)
class Ending:
    """The end of a trial: its outcome, or in words why there is none.

    Attributes:
        outcome: ``None`` where the trial failed or was stopped.
        reason: Empty with an outcome.
        stopped: Whether it was stopped early, which is no failure.
    """

    outcome: Outcome | None
    reason: str
    stopped: bool = False
