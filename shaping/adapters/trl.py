"""Dense rewards in TRL: its GRPO trainer, in which every token of a response has an advantage of its own.

GRPO has no critic, so neither ``lambda`` nor GAE applies; ``group_advantages`` says what a token's advantage is. KL
stays where TRL has it, in the loss (``beta``).

Written against TRL 1.16, whose loss takes ``B x T`` advantages from subclasses (``GRPOTrainer._compute_loss``). TRL's
PPO trainer ended with 1.12; for PPO there is Shapetune's own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from trl import GRPOTrainer

from shaping.adapters.conservation import check_rewards
from shaping.adapters.group_advantages import group_advantages
from shaping.errors import ConfigError
from shaping.rollouts import Rollouts
from shaping.shape import Shape
from shaping.shaper import Shaper

logger = logging.getLogger(__name__)

# Each private name of TRL that is used below: why, and what would replace it.
PRIVATE_NAMES = {
    "_tokenizer": "the policy's tokenizer, also where the processing class is a processor; a public attribute",
    "_generate": "tokens as they were sampled, before TRL decodes and pads them; token ids among a reward's arguments",
    "_calculate_rewards": "the scores of all processes, before TRL mixes them; a hook between scores and advantages",
    "_generate_and_score_completions": "puts B x T advantages in place of one a response; the same hook",
}
# Losses that weigh each token by its advantage; the others take one advantage a response.
LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo")


class DenseGRPOTrainer(GRPOTrainer):
    """TRL's GRPO trainer with token rewards.

    Args:
        model: The policy, as for TRL.
        make_shaper: Takes the policy's tokenizer and returns the shaper.
        reward_funcs: As for TRL; what they give a response is what its rewards sum to. By default the shaper's own
            reward model scores the tokens as they were sampled.
        missing_eos_penalty: Taken off the reward model's score of a response without its end.
        **options: All else that TRL's trainer takes.

    Raises:
        ConfigError: TRL is set to what would lose where the reward falls.
    """

    def __init__(
        self,
        model: Any,
        make_shaper: Callable[[Any], Shaper],
        reward_funcs: Any = None,
        missing_eos_penalty: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(model, reward_funcs or [self.reward_model_score], **options)
        self._shaper, self._missing_eos_penalty = make_shaper(self._tokenizer), missing_eos_penalty
        for warning in check_arguments(self._shaper.shape, self.args):
            logger.warning(warning)

    def reward_model_score(self, prompts: list[Any], **given: Any) -> list[float]:
        """Return the score that the shaper's reward model gives each response that was sampled last."""
        prompt_ids, completion_ids, tool_mask, *_ = self._generated
        rollouts = Rollouts.of_ids(prompt_ids, completion_ids, policy_masks=tool_mask)
        unfinished = [not ids or ids[-1] not in self.eos_token_ids for ids in completion_ids]
        penalties = self._missing_eos_penalty * torch.tensor(unfinished)
        return (self._shaper.scores(rollouts) - penalties).tolist()

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        found: tuple[Any, ...] = super()._generate(prompts)
        self._generated = found
        return found

    def _calculate_rewards(self, *arguments: Any, **options: Any) -> Tensor:
        found: Tensor = super()._calculate_rewards(*arguments, **options)
        self._rewards = found
        return found

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        output["advantages"] = self._dense(output)
        return output

    @torch.no_grad()
    def _dense(self, output: dict[str, Any]) -> Tensor:
        """Return ``B x T`` advantages of this process's responses."""
        rollouts = _rollouts(output)
        # Of all processes: a group may have responses on several.
        scores = (self._rewards * self.reward_weights.to(self._rewards)).nansum(dim=1)
        scores = scores.masked_fill(self._rewards.isnan().all(dim=1), torch.nan)
        first = self.accelerator.process_index * len(rollouts)
        own = slice(first, first + len(rollouts))
        given = scores[own].nan_to_num()
        rewards = self._shaper(rollouts, given).to(scores.device)
        check_rewards(rewards, given, rollouts.policy_mask)
        width, both = rewards.shape[1], torch.stack([rewards, rollouts.policy_mask.to(rewards)], dim=2)
        gathered = self.accelerator.gather(self.accelerator.pad_across_processes(both, dim=1))
        size = self.num_generations if self.model.training else self.num_generations_eval
        advantages = group_advantages(scores, gathered[..., 0], gathered[..., 1], size, self.scale_rewards)
        return advantages[own, :width]


def check_arguments(shape: Shape, args: Any) -> list[str]:
    """Return warnings about what GRPO makes of a shape.

    Args:
        shape: The shape.
        args: A ``GRPOConfig``.

    Raises:
        ConfigError: A loss takes one advantage a response, or rewards are normalised before they are summed.
    """
    if args.loss_type not in LOSSES:
        raise ConfigError(
            f"loss_type = {args.loss_type} takes one advantage a response: the shape would do nothing",
            f"choose one of {', '.join(LOSSES)}",
        )
    if args.multi_objective_aggregation != "sum_then_normalize":
        raise ConfigError(
            f"multi_objective_aggregation = {args.multi_objective_aggregation} normalises each reward before it sums "
            "them, so that no response has a score which its tokens' rewards could sum to",
            "set it to sum_then_normalize",
        )
    if args.importance_sampling_level == "sequence":
        raise ConfigError(
            "importance_sampling_level = sequence clips whole responses by one ratio, whose gradient gives every token "
            "the mean of all tokens' advantages: the shape would do nothing",
            "set it to token",
        )
    if shape.gamma < 1:
        raise ConfigError(f"the shape was found with gamma {shape.gamma}, and GRPO does not discount", "use PPO")
    if shape.gae_lambda == 1:
        return []
    return [
        f"TRL, GRPO: there is no critic, so the shape's lambda {shape.gae_lambda:g} does not apply: a token's "
        "advantage is all that is still to come; to train with that lambda, use PPO: shapetune train --shape"
    ]


def _rollouts(output: dict[str, Any]) -> Rollouts:
    real = output["completion_mask"].bool()
    written = real & output["tool_mask"].bool() if "tool_mask" in output else real
    return Rollouts(output["prompt_ids"], output["prompt_mask"].bool(), output["completion_ids"], real, written)
