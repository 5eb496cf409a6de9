"""The policy gradient as each shape's token rewards estimate it, on the same responses for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.fidelity.field import Contender
from pipeline.trainers.ppo.trainer import PPOTrainer
from shaping.advantages import generalized_advantages
from shaping.rollouts import Rollouts
from shaping.shaper import Shaper

PREFIX, SPARSE = "prefix", "sparse"
# A method, or the truth, and its lambda.
Key = tuple[str, float]
TRUTH: Key = ("true gradient", 1.0)


@dataclass(frozen=True)
class Credited:
    """What a group of responses is paid.

    Attributes:
        rewards: ``B x T`` token rewards by method.
        scores: ``B``.
        known: ``B x T``: what prefix scores had said before each token, less what they say of the prompt; zeros
            where the reward model scores no prefixes.
    """

    rewards: Mapping[str, Tensor]
    scores: Tensor
    known: Tensor


def group_gradients(
    trainer: PPOTrainer, field: Sequence[Contender], lambdas: Sequence[float], group: int, seed: int
) -> dict[Key, Tensor]:
    """Return, for a group of fresh responses, the gradient of every method at every lambda, and the true one (``P``).

    Advantages are sums of rewards to come, weighted with powers of lambda, without a critic; what the other responses
    of the group have at the same place is taken off. At lambda 1 sparse reward gives the true gradient, in
    expectation. So does the estimate called true here, which takes off what prefix scores knew before each token.

    Args:
        trainer: Of the policy, as far as it is trained.
        field: Whose rewards.
        lambdas: Weights of rewards to come.
        group: Responses.
        seed: Of prompts, sampling and credit.
    """
    task, generator = trainer.task, torch.Generator().manual_seed(seed)
    shapers = {
        each.method: Shaper(each.shape, task.reward_model, task.tokenizer, seed + place)
        for place, each in enumerate(field)
    }
    chosen = torch.randint(len(task.train_prompts), (group,), generator=generator)
    rollouts, _ = trainer.sample(task.train_prompts.select(chosen), generator)
    mask = rollouts.response_mask
    to_come = rewards_to_come(pay(trainer, shapers, rollouts), mask, lambdas)
    return gradients(trainer, rollouts, {key: less_others(each, mask) for key, each in to_come.items()})


def pay(trainer: PPOTrainer, shapers: Mapping[str, Shaper], rollouts: Rollouts) -> Credited:
    """Return the token rewards of a group under every method, found in batches of the size that training has."""
    rewards: dict[str, list[Tensor]] = {name: [] for name in shapers}
    scores, known = [], []
    for rows in torch.split(torch.arange(len(rollouts)), trainer.settings.batch_size):
        given = rollouts.select(rows)
        adjustment = trainer.missing_eos_adjustment(given)
        shaped = {name: shaper.shaped(given, adjustment=adjustment) for name, shaper in shapers.items()}
        for name, each in shaped.items():
            rewards[name].append(each.token_rewards)
        scores.append(shaped[SPARSE].scores)
        increments = (
            shaped[PREFIX].credits[PREFIX].values if PREFIX in shaped else torch.zeros(given.response_ids.shape)
        )
        known.append(increments.cumsum(dim=1) - increments)
    return Credited({name: torch.cat(parts) for name, parts in rewards.items()}, torch.cat(scores), torch.cat(known))


def rewards_to_come(credited: Credited, mask: Tensor, lambdas: Sequence[float]) -> dict[Key, Tensor]:
    """Return what each token still has before it, for every method at every lambda: ``B x T`` each, zero on padding.

    The true one is the score less what was known of it before the token: unbiased, with less noise than the score.
    """
    nothing = torch.zeros(mask.shape)
    found = {
        (name, gae_lambda): generalized_advantages(rewards, nothing, mask, 1.0, gae_lambda)[0]
        for name, rewards in credited.rewards.items()
        for gae_lambda in lambdas
    }
    found[TRUTH] = (credited.scores[:, None] - credited.known) * mask
    return found


def less_others(values: Tensor, mask: Tensor) -> Tensor:
    """Return values less the mean that the other responses have at the same place, zero on padding.

    What others have says nothing of a response's own tokens: this takes off noise and adds no bias.
    """
    values = values * mask
    others = (values.sum(dim=0) - values) / (mask.sum(dim=0) - 1).clamp(min=1)
    return (values - others) * mask


def gradients(trainer: PPOTrainer, rollouts: Rollouts, weights: Mapping[Key, Tensor]) -> dict[Key, Tensor]:
    """Return the mean over responses of ``sum_t A_t grad log pi(y_t)``, all parameters in one row (``P``), for each."""
    parameters = [each for each in trainer.actor.policy.parameters() if each.requires_grad]
    log_probs, found = trainer.actor(rollouts).log_probs, {}
    for name, each in weights.items():
        goal = (log_probs * each).sum() / len(rollouts)
        parts = torch.autograd.grad(goal, parameters, retain_graph=True)
        found[name] = torch.cat([part.flatten() for part in parts])
    return found
