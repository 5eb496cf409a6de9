"""SkyRL 0.3: a PPO trainer whose rewards fall where a shape says.

SkyRL asks an experiment for its trainer:

    class DenseExp(BasePPOExp):
        def get_trainer(self, **given):
            return dense_trainer(make_shaper)(**given)

``postprocess_generator_output`` turns the generator's rewards into rewards of tokens. The trainer shapes right after
it: dynamic sampling, the filter of prompts without variance and pass@n have seen the rewards as they were, while the KL
penalty and GAE are still to come. What a response was given, one score or rewards of its turns, sums to its score.

Masked tokens: SkyRL's GAE counts a reward on them and bootstraps from their values, so no reward may stand there, and
none does. A response of which no token is trained (SkyRL masks those that were cut off) keeps its rewards as they were.

Written against skyrl 0.3.0 (``skyrl/train/trainer.py``, ``skyrl/backends/skyrl_train/utils/ppo_utils.py``), which
cannot be imported by Python 3.11, whatever its metadata says: pydantic wants 3.12 for its ``typing.TypedDict``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from skyrl.train.trainer import RayPPOTrainer

from shaping.adapters.conservation import check_rewards
from shaping.adapters.settings import TrainerSettings, check_settings
from shaping.errors import ConfigError
from shaping.rollouts import Rollouts
from shaping.shape import Shape
from shaping.shaper import Shaper

logger = logging.getLogger(__name__)

NAMES = {
    "estimator": "trainer.algorithm.advantage_estimator",
    "gamma": "trainer.algorithm.gamma",
    "gae_lambda": "trainer.algorithm.lambd",
    "kl_coef": "trainer.algorithm.kl_loss_coef",
}


def dense_trainer(
    make_shaper: Callable[[Any], Shaper], base: type[RayPPOTrainer] = RayPPOTrainer, kl_coef: float | None = None
) -> type:
    """Return a trainer that gives every token its reward.

    Args:
        make_shaper: Makes the shaper for the policy's tokenizer; called once, where the trainer is made.
        base: The trainer to extend, such as ``FullyAsyncRayPPOTrainer``.
        kl_coef: Price of KL inside the rewards that the shape was tuned with; ``None`` where that is not known.

    Raises:
        ConfigError: Its settings do not fit the shape; raised when the trainer is made, before any model is.
    """

    class DenseTrainer(base):
        """A trainer of SkyRL whose rewards a shaper places."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._shaper = make_shaper(self.tokenizer)
            for warning in check_trainer(self._shaper.shape, self.cfg, kl_coef):
                logger.warning(warning)

        def postprocess_generator_output(
            self, generator_output: dict[str, Any], uids: list[str], *arguments: Any, **options: Any
        ) -> tuple[dict[str, Any], list[str]]:
            """Return SkyRL's output and ids with the rewards of tokens in place of its own."""
            # Read first: the filter of prompts without variance masks whole responses, which the critic and the
            # whitening of advantages see all the same.
            written = generator_output["loss_masks"]
            output, uids = super().postprocess_generator_output(generator_output, uids, *arguments, **options)
            output["rewards"] = dense_rewards(self._shaper, output, written)
            return output, uids

    return DenseTrainer


def dense_rewards(shaper: Shaper, output: dict[str, Any], written: Sequence[Sequence[int]]) -> list[list[float]]:
    """Return the rewards of each response's tokens; they sum to those that SkyRL gave it.

    Args:
        shaper: Gives the tokens their rewards.
        output: What ``postprocess_generator_output`` returned: ``prompt_token_ids``, ``response_ids`` and ``rewards``,
            of which each is a list of rows without padding.
        written: For each response, 1 on the tokens that the policy wrote, 0 on those of tools and users.

    Raises:
        ShapeError: Reward stands on a token that the policy did not write, or a response's total changed.
    """
    given: list[list[float]] = output["rewards"]
    rollouts = Rollouts.of_ids(output["prompt_token_ids"], output["response_ids"], policy_masks=written)
    scores = torch.tensor([math.fsum(row) for row in given])
    rewards = shaper(rollouts, scores).cpu()
    check_rewards(rewards, scores, rollouts.policy_mask)
    return [
        rewards[place, : len(row)].tolist() if any(written[place]) else list(row) for place, row in enumerate(given)
    ]


def check_trainer(shape: Shape, config: Any, kl_coef: float | None = None) -> list[str]:
    """Return warnings about settings of SkyRL under which the shape is not what it was tuned to be.

    Args:
        shape: The shape.
        config: A ``SkyRLTrainConfig``.
        kl_coef: Price of KL inside the rewards that the shape was tuned with; ``None`` where that is not known.

    Raises:
        ConfigError: The estimator, ``gamma`` or ``lambd`` is not the shape's, or trajectories are trained step by step.
    """
    algorithm = config.trainer.algorithm
    if config.generator.step_wise_trajectories:
        raise ConfigError(
            "generator.step_wise_trajectories = true: SkyRL then gives all steps one advantage, from the last step's "
            "reward alone, so that token rewards are lost",
            "set it to false; turns are shaped in one sequence, with what tools answered masked",
        )
    found = TrainerSettings(
        trainer="SkyRL",
        names=NAMES,
        estimator=str(algorithm.advantage_estimator),
        gamma=float(algorithm.gamma),
        gae_lambda=float(algorithm.lambd),
        kl_coef=float(algorithm.kl_loss_coef) if algorithm.use_kl_in_reward else None,
    )
    if not algorithm.use_kl_in_reward:
        where = "in the loss" if algorithm.use_kl_loss else "nowhere"
        warning = (
            f"trainer.algorithm.use_kl_in_reward = false: KL is charged {where}, but the shape was tuned with KL in "
            "the reward, where it enters the advantages; set it to true and use_kl_loss to false"
        )
        return check_settings(shape, found) + ([] if kl_coef == 0 else [warning])
    warnings = check_settings(shape, found, kl_coef)
    if algorithm.kl_ctrl.type != "fixed":
        warnings.append(
            f"trainer.algorithm.kl_ctrl.type = {algorithm.kl_ctrl.type}: the price of KL moves, but the shape was "
            "tuned with a fixed one; set it to fixed"
        )
    return warnings
