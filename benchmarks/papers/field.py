"""Who takes part: the papers' methods, their baselines and the controls, each with what is tuned for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.config.schema import StudyConfig
from pipeline.trainers.base import Task
from pipeline.trainers.ppo.settings import Critic
from pipeline.trials.arm import Arm
from shaping.credit import METHODS, check_served
from shaping.errors import ConfigError

# Every method is tuned over the same ones: without a critic that knows, sparse PPO wants the upper end.
LAMBDAS = (0.6, 0.8, 0.95, 1.0)
VALUE_HEAD: Critic = "value_head"
REWARD_MODEL: Critic = "reward_model"
SPARSE, TUNED, WINNER, UNIFORM = "sparse, defaults", "sparse, tuned", "winner", "uniform"
HEAD_ONLY = "sparse, value head"
DOUBLED, RANDOM = "2R at the end", "random"
SCAR, SCAR_TOKEN, SCAR_DOUBLED = "SCAR, span", "SCAR, token", "SCAR, span, 2R"
# One budget for all that sample over tokens.
BUDGET = 128
TOKENS: Mapping[str, Any] = {"unit": "token", "max_units": 512, "budget": BUDGET}


@dataclass(frozen=True)
class Entrant:
    """One who takes part.

    Attributes:
        name: As tables call it.
        weights: Credit method to its share.
        balance: Share of the reward that is spread; as published where it was.
        options: Further fields of the shape.
        critics: Tuned over, beside lambda, where the reward model can be one: any method may start from what it knows.
        reward_scale: Total reward over the score; all but the controls of scale have 1.
    """

    name: str
    weights: Mapping[str, float]
    balance: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)
    critics: tuple[Critic, ...] = (VALUE_HEAD, REWARD_MODEL)
    reward_scale: float = 1.0


ENTRANTS = (
    Entrant(TUNED, {"sparse": 1.0}),
    # What the papers call sparse PPO: a critic that starts from nothing.
    Entrant(HEAD_ONLY, {"sparse": 1.0}, critics=(VALUE_HEAD,)),
    Entrant(DOUBLED, {"sparse": 1.0}, reward_scale=2.0),
    Entrant(UNIFORM, {"uniform": 1.0}),
    Entrant(RANDOM, {"random": 1.0}),
    # Chan et al. publish 0.8.
    Entrant("ABC", {"attention": 1.0}, balance=0.8),
    Entrant("attention alone", {"attention": 1.0}),
    Entrant("R3HF", {"prefix": 1.0}),
    # The public code adds credit and score, one to one: half and half at equal scale, and as it is a total of 2R.
    Entrant(SCAR, {"shapley": 1.0}, balance=0.5),
    Entrant(SCAR_TOKEN, {"owen": 1.0}, balance=0.5),
    Entrant(SCAR_DOUBLED, {"shapley": 1.0}, balance=0.5, reward_scale=2.0),
    Entrant("Shapley alone, span", {"shapley": 1.0}),
    Entrant("SHAP", {"kernel_shap": 1.0}, options=TOKENS),
    Entrant("LIME", {"lime": 1.0}, options=TOKENS),
)

# Dense credit of one method at equal scale: what a mix must beat to be worth its search.
ALONE = tuple(
    each.name for each in ENTRANTS if each.reward_scale == 1 and each.name not in (TUNED, HEAD_ONLY, UNIFORM, RANDOM)
)


@dataclass(frozen=True)
class Candidate:
    """One setting of an entrant: what is trained.

    Attributes:
        entrant: Whose.
        arm: Shape and critic.
        reward_scale: Total reward over the score.
    """

    entrant: str
    arm: Arm
    reward_scale: float = 1.0

    def config(self, config: StudyConfig) -> StudyConfig:
        """Return the study's config with what this candidate needs: a total of 2R preserves no policy."""
        if self.reward_scale == 1:
            return config
        shape = config.shape.model_copy(update={"policy_preserving": False})
        ppo = config.ppo.model_copy(update={"reward_scale": self.reward_scale})
        return config.model_copy(update={"shape": shape, "ppo": ppo})


def candidates(
    entrant: Entrant, config: StudyConfig, task: Task, lambdas: tuple[float, ...] = LAMBDAS
) -> list[Candidate]:
    """Return the settings that an entrant is tuned over; none where the task's reward model cannot serve it."""
    if entrant.name == HEAD_ONLY and task.critic_source is None:
        # There is no other critic: it would be the tuned one again.
        return []
    every = imaginable(entrant, config, lambdas)
    shape = every[0].arm.shape
    try:
        check_served([METHODS[name] for name in shape.active_methods()], task.reward_model, shape)
    except ConfigError:
        return []
    return [each for each in every if each.arm.critic != REWARD_MODEL or task.critic_source is not None]


def imaginable(entrant: Entrant, config: StudyConfig, lambdas: tuple[float, ...] = LAMBDAS) -> list[Candidate]:
    """Return the settings that an entrant could be tuned over, whatever the task's models can serve."""
    shape = config.base_shape().with_changes(weights=entrant.weights, balance=entrant.balance, **entrant.options)
    return [
        Candidate(
            entrant.name,
            Arm.with_critic(entrant.name, shape.with_changes(gae_lambda=gae_lambda), critic),
            entrant.reward_scale,
        )
        for critic in entrant.critics
        for gae_lambda in lambdas
    ]


def untuned(config: StudyConfig) -> Candidate:
    """Return sparse PPO as it is usually run: lambda 0.95 and the study's critic."""
    return Candidate(SPARSE, Arm(SPARSE, config.base_shape().with_changes(gae_lambda=0.95)))
