"""Whether a trainer's settings let a shape mean what it meant when it was found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from shaping.errors import ConfigError
from shaping.shape import Shape

GAE = "gae"
# What becomes of token rewards under the estimators that trainers offer beside GAE.
SUMMING = frozenset(
    {"grpo", "grpo_vectorized", "grpo_passk", "rloo", "rloo_vectorized", "opo", "gpg", "remax", "maxrl"}
)


@dataclass(frozen=True)
class TrainerSettings:
    """What a trainer is set to, under the names that its users know.

    Attributes:
        trainer: What the trainer is called.
        names: The trainer's own names of ``estimator``, ``gamma``, ``gae_lambda``, ``whitens_rewards`` and ``kl_coef``.
        estimator: Its advantage estimator.
        gamma: Its discount.
        gae_lambda: Its ``lambda``.
        whitens_rewards: Whether it normalises token rewards before it estimates advantages.
        kl_coef: Price of KL that it takes off the rewards; ``None`` where it takes none off.
    """

    trainer: str
    names: Mapping[str, str]
    estimator: str
    gamma: float
    gae_lambda: float
    whitens_rewards: bool = False
    kl_coef: float | None = None


def check_settings(shape: Shape, found: TrainerSettings, kl_coef: float | None = None) -> list[str]:
    """Return warnings about settings under which a shape is not what it was when it was found.

    Args:
        shape: What the trainer will use.
        found: How it is set.
        kl_coef: Price of KL that the shape was found with; ``None`` does not look at it.

    Raises:
        ConfigError: The estimator is not generalised advantage estimation, rewards are whitened, or ``gamma`` or
            ``lambda`` is not the shape's; says what would happen.
    """
    _check_estimator(found)
    for name, meaning in (("gamma", "discount"), ("gae_lambda", "lambda")):
        _check_equal(name, meaning, getattr(shape, name), getattr(found, name), found)
    if found.whitens_rewards:
        raise ConfigError(
            f"{found.trainer}: {_name(found, 'whitens_rewards')} normalises token rewards: their mean is taken off "
            "every token, so that a response's rewards no longer sum to its score and long responses lose more",
            f"turn {_name(found, 'whitens_rewards')} off; advantages may be whitened",
        )
    if kl_coef is None or (found.kl_coef or 0.0) == kl_coef:
        return []
    now = "takes no KL off the rewards" if found.kl_coef is None else f"has {found.kl_coef:g}"
    return [
        f"{found.trainer}: the shape was found with a KL price of {kl_coef:g} inside the token rewards, and "
        f"{_name(found, 'kl_coef')} {now}: another price moves the best shape little, but the policy it leads to"
    ]


def _check_estimator(found: TrainerSettings) -> None:
    if found.estimator == GAE:
        return
    name = _name(found, "estimator")
    loss = (
        "sums the token rewards of a response into one number and gives it to every token: the shape would do nothing"
        if found.estimator in SUMMING
        else "is not the estimator that the shape was found with, and may lose where the reward falls"
    )
    raise ConfigError(f"{found.trainer}: {name} = {found.estimator} {loss}", f"set {name} to {GAE}, with a critic")


def _check_equal(field: str, meaning: str, wanted: float, value: float, found: TrainerSettings) -> None:
    if math.isclose(wanted, value, abs_tol=1e-9):
        return
    name = _name(found, field)
    happens = "the best shape is another one under another lambda"
    if field == "gae_lambda" and value == 1:
        happens = "with lambda 1 and a good critic, where the reward falls does little"
    if field == "gamma":
        happens = "rewards that stand at different tokens are discounted differently, so the best policy changes"
    raise ConfigError(
        f"{found.trainer}: {name} = {value:g}, but the shape was found with {meaning} {wanted:g}: {happens}",
        f"set {name} to {wanted!r}",
    )


def _name(found: TrainerSettings, field: str) -> str:
    return found.names.get(field, field)
