"""An arm: a shape with what else distinguishes it, such as the critic of a tuned baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from pipeline.trainers.ppo.settings import Critic
from search_spaces.base import Candidate, Value
from search_spaces.rivals import CRITIC
from shaping.shape import Shape

# What the search's winner is called where it is run on fresh seeds.
WINNER = "winner"


@dataclass(frozen=True)
class Arm:
    """One thing to train: a name, a shape, and the trainer's settings where they differ from the study's.

    Attributes:
        name: What tables and reports call it.
        shape: Where the reward falls.
        trainer: Overrides by their place in the config, such as ``ppo.critic``; empty keeps the study's.
    """

    name: str
    shape: Shape
    trainer: Mapping[str, Value] = field(default_factory=dict)

    @classmethod
    def with_critic(cls, name: str, shape: Shape, critic: Critic | None) -> Arm:
        """Return an arm that differs from the study in its critic alone; ``None`` keeps that, too."""
        return cls(name, shape, {} if critic is None else {CRITIC: critic})

    @property
    def critic(self) -> Critic | None:
        """What estimates values in place of the study's critic; ``None`` keeps that."""
        return cast("Critic | None", self.trainer.get(CRITIC))

    @property
    def candidate(self) -> Candidate:
        """What is trained, without its name."""
        return Candidate(self.shape, self.trainer)

    def to_dict(self) -> dict[str, Any]:
        """Return the arm as plain values; one that differs in its critic alone is written as it always was."""
        settings = {name: value for name, value in self.trainer.items() if name != CRITIC}
        trainer = {"trainer": dict(self.trainer)} if settings else {}
        return {"name": self.name, "shape": self.shape.to_dict(), "critic": self.critic, **trainer}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Arm:
        """Return the arm of ``to_dict``'s values."""
        critic = {CRITIC: values["critic"]} if values["critic"] else {}
        return cls(values["name"], Shape.from_dict(values["shape"]), {**critic, **values.get("trainer", {})})
