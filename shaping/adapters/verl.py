"""Dense rewards in verl 0.9: a PPO trainer that shapes each batch before verl computes its advantages.

verl keeps a batch in its TransferQueue as rows without padding. Before ``_compute_advantage`` the field ``rm_scores``
holds each response's score on its last token; afterwards the KL penalty, GAE and the critic's targets read it. The
trainer here overwrites it in between, so that each row's sum, which is what verl logs as the score, stays what it was.

Rows that are left alone have no token of the policy's: verl pads a batch with such rows until its size divides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
import transfer_queue as tq
from tensordict import TensorDict
from torch import Tensor
from verl.trainer.ppo.v1.trainer_base import get_trainer_cls, register_trainer

from shaping.adapters.conservation import check_rewards
from shaping.adapters.settings import TrainerSettings, check_settings
from shaping.rollouts import Rollouts
from shaping.shaper import Shaper

logger = logging.getLogger(__name__)

# Each private name of verl that is used below: why, and what would replace it.
PRIVATE_NAMES = {
    "_init_tokenizer": "the tokenizer is wanted before verl makes its own; a public attribute after construction",
    "_compute_advantage": "the place between scores and the KL penalty; a hook that is given the batch there",
}
NAMES = {
    "estimator": "algorithm.adv_estimator",
    "gamma": "algorithm.gamma",
    "gae_lambda": "algorithm.lam",
    "kl_coef": "algorithm.kl_ctrl.kl_coef",
}


def register(
    name: str, make_shaper: Callable[[Any], Shaper], mode: str = "sync", kl_coef: float | None = None
) -> type[Any]:
    """Give verl a trainer with dense rewards: ``trainer.v1.trainer_mode=NAME`` chooses it.

    Args:
        name: What the trainer is called; none of verl's own names.
        make_shaper: Takes the policy's tokenizer and returns the shaper. It is called once, in the process of verl's
            task runner, when the trainer is made there.
        mode: The trainer of verl that it extends: ``sync``, ``colocate_async`` or ``separate_async``.
        kl_coef: Price of KL that the shape was found with; verl's is held against it. ``None`` does not look.

    Returns:
        The trainer's class, which raises ``ConfigError`` when it is made with settings under which the shape would do
        something else or nothing.

    Raises:
        ValueError: verl has no such mode, or already has a trainer of that name.
    """
    base: Any = get_trainer_cls(mode)

    class DenseTrainer(base):
        """A trainer of verl whose rewards a shaper places."""

        def __init__(self, config: Any) -> None:
            # verl asks for its own modes by name: under another one it samples and saves as if it were asynchronous.
            config.trainer.v1.trainer_mode = mode
            super().__init__(config)
            self._init_tokenizer()
            self._shaper = make_shaper(self.tokenizer)
            found = _settings(name, config)
            for warning in [*check_settings(self._shaper.shape, found, kl_coef), *_rejections(found.trainer, config)]:
                logger.warning(warning)

        def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
            shape_batch(batch, self._shaper)
            return super()._compute_advantage(batch, metrics)

    DenseTrainer.__name__ = DenseTrainer.__qualname__ = f"Dense{base.__name__}"
    return register_trainer(name)(DenseTrainer)  # type: ignore[no-any-return]


def shape_batch(batch: Any, shaper: Shaper) -> None:
    """Overwrite a batch's ``rm_scores`` in the TransferQueue by token rewards of the same sums.

    Args:
        batch: verl's ``KVBatchMeta``: the keys of the rows and their partition.
        shaper: Places the rewards.

    Raises:
        ShapeError: A row's rewards do not sum to its score, or some stand on what the policy did not write.
        TrialFailed: The reward model gave a score that is not finite (``nan``).
    """
    fields = ["prompts", "responses", "response_mask", "rm_scores"]
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
    prompts, responses, masks, rewards = (data[field].unbind() for field in fields)
    rows = [row for row, mask in enumerate(masks) if bool(mask.any())]
    if not rows:
        return
    rollouts = _rollouts(prompts, responses, masks, rows)
    scores = torch.stack([rewards[row].sum() for row in rows])
    shaped = shaper(rollouts, scores=scores)
    check_rewards(shaped, scores, rollouts.policy_mask)
    given = [shaped[place, : len(rewards[row])].to(rewards[row]) for place, row in enumerate(rows)]
    written = TensorDict({"rm_scores": torch.nested.as_nested_tensor(given, layout=torch.jagged)}, len(rows))
    tq.kv_batch_put(keys=[batch.keys[row] for row in rows], partition_id=batch.partition_id, fields=written)


def _rollouts(prompts: list[Tensor], responses: list[Tensor], masks: list[Tensor], rows: list[int]) -> Rollouts:
    """Return some rows of a batch; verl's ``response_mask`` is false on what tools and users said in between."""
    prompt_ids, response_ids, written = ([field[row].tolist() for row in rows] for field in (prompts, responses, masks))
    return Rollouts.of_ids(prompt_ids, response_ids, policy_masks=written)


def _settings(name: str, config: Any) -> TrainerSettings:
    algorithm = config.algorithm
    return TrainerSettings(
        trainer=f"verl, trainer {name}",
        names=NAMES,
        estimator=str(algorithm.adv_estimator),
        gamma=float(algorithm.gamma),
        gae_lambda=float(algorithm.lam),
        kl_coef=float(algorithm.kl_ctrl.kl_coef) if algorithm.use_kl_in_reward else None,
    )


def _rejections(trainer: str, config: Any) -> list[str]:
    """Return a warning where verl takes tokens out of responses whose rewards stand already."""
    correction = config.algorithm.get("rollout_correction") or {}
    modes = str(correction.get("rollout_rs") or "")
    if "token" not in modes or correction.get("bypass_mode"):
        return []
    return [
        f"{trainer}: algorithm.rollout_correction.rollout_rs = {modes} takes single tokens out of a response after "
        "their rewards were placed, and their rewards with them: sums are not kept; choose a mode of whole sequences"
    ]
