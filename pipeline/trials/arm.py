"""An arm: a shape with what else distinguishes it, such as the critic of a tuned baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.trainers.ppo.settings import Critic
from shaping.shape import Shape

# What the search's winner is called where it is run on fresh seeds.
WINNER = "winner"


@dataclass(frozen=True)
class Arm:
    """One thing to train: a name, a shape, and the critic where it differs from the study's.

    Attributes:
        name: What tables and reports call it.
        shape: Where the reward falls.
        critic: Overrides ``ppo.critic``; ``None`` keeps the study's.
    """

    name: str
    shape: Shape
    critic: Critic | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the arm as plain values."""
        return {"name": self.name, "shape": self.shape.to_dict(), "critic": self.critic}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Arm:
        """Return the arm of ``to_dict``'s values."""
        return cls(values["name"], Shape.from_dict(values["shape"]), values["critic"])
