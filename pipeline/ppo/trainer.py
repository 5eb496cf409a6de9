"""PPO with token rewards: one batch of rollouts, shaping and update at a time."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.ppo.actor import Actor, RewardCritic, ValueHead
from pipeline.ppo.advantages import generalized_advantages, whiten
from pipeline.ppo.checkpoint import Checkpoint
from pipeline.ppo.health import check_responses, check_rewards
from pipeline.ppo.losses import kl_estimate, masked_mean
from pipeline.ppo.rollout import sample_responses
from pipeline.ppo.settings import PPOSettings, SamplingSettings
from pipeline.ppo.update import Batch, PolicyUpdate
from pipeline.tasks.base import Prompts, Task
from shaping.certificate import Certificate
from shaping.rollouts import Rollouts
from shaping.shape import Shape
from shaping.shaper import Shaper


@dataclass(frozen=True)
class CurvePoint:
    """What one training step showed, before its update; rewards are unshaped.

    Attributes:
        step: Training step, from 0.
        reward: Mean score of the batch, in reward-model units.
        kl_nats: Mean over responses of the summed log ratio to the reference.
        objective: ``J = reward - kl_coef * kl_nats``; higher is better.
        response_tokens: Mean length.
        entropy_nats: Mean entropy of a token.
        policy_loss: Clipped surrogate loss of the update's last pass.
        value_loss: Value loss of the update's last pass.
        explained_variance: Share of the returns' variance that the critic explained before the update.
    """

    step: int
    reward: float
    kl_nats: float
    objective: float
    response_tokens: float
    entropy_nats: float
    policy_loss: float
    value_loss: float
    explained_variance: float

    def to_dict(self) -> dict[str, float]:
        """Return the point as plain values."""
        return asdict(self)


class PPOTrainer:
    """Trains a copy of the task's policy under one shape.

    Args:
        task: Models and prompts.
        shape: Where the reward falls.
        settings: PPO's settings.
        sampling: How responses are sampled.
        seed: Decides prompts, sampling and minibatch order; two shapes with one seed see the same prompts and
            random numbers (common random numbers).
    """

    def __init__(self, task: Task, shape: Shape, settings: PPOSettings, sampling: SamplingSettings, seed: int) -> None:
        self.task, self.shape, self.settings, self.sampling, self.seed = task, shape, settings, sampling, seed
        self.certificate = Certificate.empty(shape)
        self.credit_tokens = 0
        self._shaper = Shaper(shape, task.reward_model, task.tokenizer, seed)
        banned = None if sampling.stop_at_eos else int(task.tokenizer.eos_token_id)
        torch.manual_seed(seed)
        self.actor = Actor(copy.deepcopy(task.policy), self._new_critic(), banned, sampling.temperature)
        self.reference = Actor(task.policy, None, banned, sampling.temperature)
        self._update = PolicyUpdate(self.actor, settings)
        order = torch.Generator().manual_seed(seed)
        self._prompt_order = torch.randperm(len(task.train_prompts), generator=order)

    def steps(self, start: int = 0) -> Iterator[CurvePoint]:
        """Yield one curve point a training step, from step ``start`` on.

        Raises:
            TrialFailed: A reward, loss or gradient is not finite (``nan``), the policy left the reference's
                neighbourhood (``kl_limit``), says one thing only (``collapse``) or nothing (``empty_responses``),
                or memory did not suffice for half a micro-batch either (``out_of_memory``).
        """
        for step in range(start, self.settings.steps):
            yield self.step(step)

    def checkpoint(self, **values: Any) -> Checkpoint:
        """Return the run's state after a training step, with the caller's own ``values`` beside it."""
        tensors = {f"actor.{name}": tensor for name, tensor in self.actor.state_dict().items()}
        for place, moments in self._update.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{place}.{name}": tensor for name, tensor in moments.items()}
        tensors |= {"generator.shaper": self._shaper.generator_state(), "generator.torch": torch.get_rng_state()}
        own = {"certificate": self.certificate.to_dict(), "credit_tokens": self.credit_tokens}
        return Checkpoint(tensors, {**own, **values})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over the state of a checkpoint of a run with the same task, shape, settings and seed."""
        tensors = checkpoint.tensors
        start = "actor."
        weights = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
        self.actor.load_state_dict(weights)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, place, moment = name.split(".")
                moments.setdefault(int(place), {})[moment] = value
        optimizer = self._update.optimizer
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        self._shaper.set_generator_state(tensors["generator.shaper"])
        torch.set_rng_state(tensors["generator.torch"])
        self.certificate = Certificate.from_dict(checkpoint.values["certificate"])
        self.credit_tokens = int(checkpoint.values["credit_tokens"])

    def step(self, step: int) -> CurvePoint:
        """Return the curve point of one training step: sample, shape, update."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        rollouts = self.sample(self._prompts(step), generator)
        check_responses(step, rollouts, int(self.task.tokenizer.eos_token_id), self.settings)
        with torch.no_grad():
            old, reference = self.actor(rollouts), self.reference(rollouts)
        shaped = self._shaper(rollouts, self.missing_eos_adjustment(rollouts))
        self.certificate = self.certificate.including(shaped.token_rewards, shaped.scores, rollouts)
        self.credit_tokens += shaped.forwarded_tokens
        mask = rollouts.response_mask
        kl_nats = float((kl_estimate(old.log_probs, reference.log_probs, "k1") * mask).sum(dim=1).mean())
        reward = float(shaped.scores.mean())
        check_rewards(step, shaped.token_rewards, kl_nats, self.settings)
        penalty = kl_estimate(old.log_probs, reference.log_probs, self.settings.kl_estimator)
        rewards = (shaped.token_rewards - self.settings.kl_coef * penalty) * mask
        advantages, returns = generalized_advantages(rewards, old.values, mask, self.shape.gamma, self.shape.gae_lambda)
        batch = Batch(rollouts, old, whiten(advantages, mask), returns)
        losses = self._update(step, batch, self._update.orders(len(rollouts), generator))[-1]
        return CurvePoint(
            step=step,
            reward=reward,
            kl_nats=kl_nats,
            objective=reward - self.settings.kl_coef * kl_nats,
            response_tokens=float(rollouts.response_tokens.float().mean()),
            entropy_nats=float(masked_mean(old.entropy, mask)),
            policy_loss=losses.policy,
            value_loss=losses.value,
            explained_variance=_explained_variance(old.values, returns, mask),
        )

    def sample(self, prompts: Prompts, generator: torch.Generator) -> Rollouts:
        """Return responses of the current policy."""
        return sample_responses(
            self.actor.policy,
            prompts.ids,
            prompts.mask,
            self.sampling.response_tokens,
            generator,
            int(self.task.tokenizer.eos_token_id),
            self.sampling.stop_at_eos,
            self.sampling.temperature,
        )

    def missing_eos_adjustment(self, rollouts: Rollouts) -> Tensor | None:
        """Return what the missing end takes off each score (``B``): part of the total under every shape."""
        if not self.sampling.stop_at_eos or self.sampling.missing_eos_penalty == 0:
            return None
        ended = (rollouts.response_ids == self.task.tokenizer.eos_token_id) & rollouts.response_mask
        missing: Tensor = ~ended.any(dim=1)
        return -self.sampling.missing_eos_penalty * missing.float()

    def _prompts(self, step: int) -> Prompts:
        size = self.settings.batch_size
        places = torch.arange(step * size, (step + 1) * size) % len(self._prompt_order)
        return self.task.train_prompts.select(self._prompt_order[places])

    def _new_critic(self) -> ValueHead | RewardCritic:
        if self.settings.critic == "value_head":
            return ValueHead(self.task.policy.config.hidden_size)
        source = self.task.reward_model
        model = copy.deepcopy(source.model).requires_grad_(True)
        return RewardCritic(model, source.mean, source.deviation)


def _explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    target = returns[mask]
    variance = target.var()
    return float(1 - (target - values[mask]).var() / variance) if float(variance) > 0 else 0.0
