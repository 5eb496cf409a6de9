"""Settings of the trainer that a study searched, under the names that production trainers have for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shaping.shape_file import ShapeFile

# The built-in PPO's settings to those of the trainer that mean the same.
NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "verl": {
        "ppo.learning_rate": ("actor_rollout_ref.actor.optim.lr",),
        "ppo.num_ppo_epochs": ("actor_rollout_ref.actor.ppo_epochs", "critic.ppo_epochs"),
        "ppo.cliprange": ("actor_rollout_ref.actor.clip_ratio",),
        "ppo.critic_warmup_steps": ("trainer.critic_warmup",),
    },
    "skyrl": {
        "ppo.learning_rate": ("trainer.policy.optimizer_config.lr",),
        "ppo.num_ppo_epochs": ("trainer.update_epochs_per_batch",),
        "ppo.cliprange": ("trainer.algorithm.eps_clip_low", "trainer.algorithm.eps_clip_high"),
        "ppo.max_grad_norm": ("trainer.policy.optimizer_config.max_grad_norm",),
    },
    "trl": {
        "ppo.learning_rate": ("learning_rate",),
        "ppo.lr_scheduler_type": ("lr_scheduler_type",),
        "ppo.num_ppo_epochs": ("num_iterations",),
        "ppo.cliprange": ("epsilon",),
        "ppo.max_grad_norm": ("max_grad_norm",),
    },
    "slime": {
        "ppo.learning_rate": ("--lr",),
        "ppo.cliprange": ("--eps-clip",),
        "ppo.max_grad_norm": ("--clip-grad",),
    },
}
# They are part of every shape file, and each trainer's module says what becomes of them.
SAID_ELSEWHERE = ("ppo.kl_coef", "ppo.critic")


def searched_overrides(form: str, content: ShapeFile) -> dict[str, Any]:
    """Return a trainer's own names and values of the settings that were searched with the shape.

    Args:
        form: The trainer: ``verl``, ``skyrl``, ``trl`` or ``slime``.
        content: The shape file.
    """
    names = NAMES[form]
    return {name: value for setting, value in content.trainer.items() for name in names.get(setting, ())}


def unset_notes(form: str, content: ShapeFile) -> Iterator[str]:
    """Yield a note for each searched setting that the trainer has no counterpart of."""
    for setting, value in content.trainer.items():
        if setting not in NAMES[form] and setting not in SAID_ELSEWHERE:
            yield f"{setting} = {value}, found with the shape, has no counterpart in {form}: set what is most like it"
