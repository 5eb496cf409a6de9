"""slime 0.3: token rewards, and GAE over them, as its custom advantage function.

    # dense.py
    advantages, initialize = dense_advantages(make_shaper), for_critic("dense.advantages")

    --advantage-estimator ppo --custom-advantage-function-path dense.advantages

The path is dotted: slime's help shows ``my_module.py:my_advantage_fn``, but ``load_function`` splits at the last dot.

slime calls the function in the processes of the actor and of the critic, each with the responses of one data-parallel
rank. With ``--megatron-config-path`` it takes the function away from the critic, which then learns the values of sparse
rewards: against those a dense reward counts twice, when it is paid and as the value's rise.
``--custom-megatron-init-path dense.initialize`` gives the function back; without it such a run is refused.

What slime does before and after stays: the scores are its ``rewards``, KL is charged on every token of a response, on
those of tools too, and advantages are whitened and distilled afterwards.

Written against slime v0.3.1 (commit a6272da): ``compute_advantages_and_returns`` in
``slime/backends/megatron_utils/loss.py``, ``train_critic`` in ``actor.py`` beside it, ``parse_megatron_role_args`` in
``slime/utils/arguments.py`` and ``load_function`` in ``slime/utils/misc.py``. That loss code called this module on a
CPU, with Megatron stubbed; nothing here ran inside a run of slime, which needs Megatron, SGLang and GPUs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer

from shaping.adapters.conservation import check_rewards
from shaping.adapters.settings import GAE, TrainerSettings, check_settings
from shaping.advantages import generalized_advantages
from shaping.errors import ConfigError
from shaping.rollouts import Rollouts
from shaping.shape import Shape
from shaping.shaper import Shaper

logger = logging.getLogger(__name__)

NAMES = {"estimator": "--advantage-estimator", "gamma": "--gamma", "gae_lambda": "--lambd", "kl_coef": "--kl-coef"}
# Its name for generalised advantage estimation.
PPO = "ppo"
# Set by ``for_critic`` in the arguments of every process that it has initialized.
KEPT = "shapetune_critic_path"


def dense_advantages(make_shaper: Callable[[Any], Shaper]) -> Callable[[Any, dict[str, Any]], None]:
    """Return the function for ``--custom-advantage-function-path``.

    It sets ``rollout_data["advantages"]`` and ``["returns"]``: lists of one tensor a response, as long as the response.

    Args:
        make_shaper: Makes the shaper for the policy's tokenizer; called once in each process, at its first batch.
    """
    made: list[Shaper] = []

    def advantages(args: Any, rollout_data: dict[str, Any]) -> None:
        """Set a rank's advantages and returns, from its token rewards less KL and its values."""
        if not made:
            shaper = make_shaper(AutoTokenizer.from_pretrained(args.hf_checkpoint, trust_remote_code=False))
            for warning in check_arguments(shaper.shape, args):
                logger.warning(warning)
            made.append(shaper)
        values = rollout_data["values"]
        rewards = [
            reward.to(value.device) - args.kl_coef * kl
            for reward, kl, value in zip(dense_rewards(made[0], rollout_data), rollout_data["kl"], values, strict=True)
        ]
        found = advantages_by_response(rewards, values, args.gamma, args.lambd)
        rollout_data["advantages"], rollout_data["returns"] = found

    return advantages


def for_critic(path: str) -> Callable[[Any], None]:
    """Return the function for ``--custom-megatron-init-path`` that lets the critic keep the advantage function.

    Args:
        path: What ``--custom-advantage-function-path`` says.
    """

    def initialize(args: Any) -> None:
        """Give a process's arguments the advantage function again, and mark that it was done."""
        args.custom_advantage_function_path = path
        setattr(args, KEPT, path)

    return initialize


def dense_rewards(shaper: Shaper, rollout_data: dict[str, Any]) -> list[Tensor]:
    """Return one tensor of token rewards for each response; it sums to slime's reward of the response.

    Raises:
        ShapeError: Reward stands on a token that the policy did not write, or a response's total changed.
    """
    lengths: list[int] = rollout_data["response_lengths"]
    rows = [tokens.tolist() for tokens in rollout_data["tokens"]]
    prompts = [row[: len(row) - length] for row, length in zip(rows, lengths, strict=True)]
    responses = [row[len(row) - length :] for row, length in zip(rows, lengths, strict=True)]
    written = [mask.tolist() for mask in rollout_data["loss_masks"]]
    rollouts = Rollouts.of_ids(prompts, responses, policy_masks=written)
    scores = torch.tensor([float(reward) for reward in rollout_data["rewards"]])
    rewards = shaper(rollouts, scores)
    check_rewards(rewards, scores, rollouts.policy_mask)
    return [rewards[place, :length] for place, length in enumerate(lengths)]


def advantages_by_response(
    rewards: list[Tensor], values: list[Tensor], gamma: float, gae_lambda: float
) -> tuple[list[Tensor], list[Tensor]]:
    """Return advantages and returns of each response, with nothing after its last token."""
    reward, value = (pad_sequence(rows, batch_first=True).float() for rows in (rewards, values))
    mask = pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in values], batch_first=True)
    advantages, returns = generalized_advantages(reward, value, mask, gamma, gae_lambda)
    lengths = [len(row) for row in values]
    return (
        [row[:length] for row, length in zip(advantages, lengths, strict=True)],
        [row[:length] for row, length in zip(returns, lengths, strict=True)],
    )


def check_arguments(shape: Shape, args: Any) -> list[str]:
    """Return warnings about arguments of slime under which the shape is not what it was tuned to be.

    Raises:
        ConfigError: The estimator, ``--gamma`` or ``--lambd`` is not the shape's, a response is split over
            context-parallel ranks, or the critic would learn from other rewards than the actor.
    """
    if args.context_parallel_size > 1:
        raise ConfigError(
            f"--context-parallel-size {args.context_parallel_size}: values and KL of a response then lie in slices on "
            "several ranks, and GAE over a slice is wrong",
            "set it to 1",
        )
    if args.megatron_config_path is not None and getattr(args, KEPT, None) is None:
        raise ConfigError(
            f"--megatron-config-path {args.megatron_config_path}: slime then takes the advantage function away from "
            "the critic, which would learn the values of sparse rewards while the actor is paid dense ones",
            "add --custom-megatron-init-path with what shaping.adapters.slime.for_critic returns",
        )
    if args.advantage_estimator != PPO:
        raise ConfigError(
            f"--advantage-estimator {args.advantage_estimator}: slime then has no critic, whose values GAE needs, and "
            "normalises the rewards of a prompt's responses, so that other scores are spread than were given",
            f"set it to {PPO}",
        )
    found = TrainerSettings(
        trainer="slime",
        names=NAMES,
        estimator=GAE,
        gamma=float(args.gamma),
        gae_lambda=float(args.lambd),
        kl_coef=float(args.kl_coef),
    )
    warnings = check_settings(shape, found)
    if args.custom_reward_post_process_path is not None:
        warnings.append(
            f"--custom-reward-post-process-path {args.custom_reward_post_process_path}: what it returns is "
            "spread over the tokens; if it normalises them, KL and critic meet them in another scale than in the study"
        )
    if args.use_kl_loss:
        warnings.append(
            "--use-kl-loss: KL is charged in the loss, but the shape was tuned with KL in the reward; "
            "use --kl-coef alone"
        )
    return warnings
