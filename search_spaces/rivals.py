"""Rivals of credit: learners that know nothing of which token earned the reward, at the settings where they are strong.

A study that searches its trainer's settings tries them among its first arms. So its winner is at least as good as the
best of them, but for noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from search_spaces.base import Candidate, Value
from search_spaces.trainer_settings import Setting, SettingChoice
from shaping.method_names import SPARSE, UNIFORM
from shaping.shape import Shape

CRITIC = "ppo.critic"
# Each critic that may be searched, in words, and the lambda at which sparse reward does well with it. A critic that
# starts as the reward model knows each prefix: it wants a short lambda (docs/findings-baselines.md).
CRITICS: dict[str, tuple[str, float]] = {
    "value_head": ("value head", 1.0),
    "network": ("network critic", 0.95),
    "reward_model": ("reward-model critic", 0.3),
}
WITHOUT_CREDIT = frozenset({SPARSE, UNIFORM})


def is_without_credit(shape: Shape) -> bool:
    """Return whether a shape places the reward without looking at the response: at its end, or spread evenly."""
    return set(shape.active_methods()) <= WITHOUT_CREDIT


def sparse_rivals(sparse: Candidate, settings: Sequence[Setting]) -> Iterator[tuple[str, Candidate]]:
    """Yield sparse reward at lambda 1, and with each critic that is searched, by what tables call them.

    Args:
        sparse: Sparse reward at the study's own settings.
        settings: What is searched of the trainer.
    """
    yield f"{SPARSE}, lambda 1", Candidate(sparse.shape.with_changes(gae_lambda=1.0), sparse.trainer)
    for critic in _critics(settings):
        if critic in CRITICS and critic != sparse.trainer[CRITIC]:
            words, gae_lambda = CRITICS[str(critic)]
            shape = sparse.shape.with_changes(gae_lambda=gae_lambda)
            yield f"{SPARSE}, {words}", Candidate(shape, {**sparse.trainer, CRITIC: critic})


def _critics(settings: Sequence[Setting]) -> tuple[Value, ...]:
    found = next((each for each in settings if each.name == CRITIC), None)
    return found.choices if isinstance(found, SettingChoice) else ()
