"""The update of PPO: a few passes of clipped losses over one shaped batch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pipeline.trainers.ppo.actor import Actor, TokenOutputs, micro_batches
from pipeline.trainers.ppo.critics import ValueHead
from pipeline.trainers.ppo.distributed import Distributed
from pipeline.trainers.ppo.losses import policy_loss, value_loss
from pipeline.trainers.ppo.portions import UPDATE, Portions
from pipeline.trainers.ppo.settings import PPOSettings
from shaping.errors import TrialFailed
from shaping.rollouts import Rollouts


@dataclass(frozen=True)
class Batch:
    """A shaped batch, ready for updates: ``B x T`` tensors beside the rollouts."""

    rollouts: Rollouts
    old: TokenOutputs
    advantages: Tensor
    returns: Tensor

    def select(self, rows: Tensor) -> Batch:
        """Return the given rows, no wider than their longest response."""
        rollouts = self.rollouts.select(rows)
        width = max(1, int(rollouts.response_tokens.max()))
        old = TokenOutputs(*(each[rows, :width] for each in (self.old.log_probs, self.old.values, self.old.entropy)))
        return Batch(rollouts.first(width), old, self.advantages[rows, :width], self.returns[rows, :width])


@dataclass(frozen=True)
class Losses:
    """What one optimizer step minimised, and the gradient's norm before clipping."""

    policy: float
    value: float
    gradient_norm: float


class PolicyUpdate:
    """Improves an actor on shaped batches.

    Args:
        actor: The policy with its critic.
        settings: PPO's settings.
        processes: Those that train together; by default this one alone.
        portions: How many responses go through at once; by default as the settings say, while memory suffices.
    """

    def __init__(
        self,
        actor: Actor,
        settings: PPOSettings,
        processes: Distributed | None = None,
        portions: Portions | None = None,
    ) -> None:
        self.actor, self.settings = actor, settings
        self._processes = processes or Distributed("cpu")
        self.portions = portions or Portions({UPDATE: settings.micro_batch_size})
        self.optimizer = torch.optim.Adam(
            self._parameter_groups(), betas=settings.adam_betas, eps=settings.adam_epsilon, fused=True
        )
        self._full_rates = [float(group["lr"]) for group in self.optimizer.param_groups]

    def __call__(self, step: int, batch: Batch, orders: Iterable[Tensor]) -> list[Losses]:
        """Return the losses of every optimizer step.

        Args:
            step: The training step, from 0: decides the learning rate.
            batch: What to learn from.
            orders: For each pass over the batch the order of its rows, which minibatches are cut from.

        Raises:
            TrialFailed: A loss or gradient is not finite (``nan``), or not even one response fits into memory
                (``out_of_memory``).
        """
        factor = rate_factor(step, self.settings)
        for group, full in zip(self.optimizer.param_groups, self._full_rates, strict=True):
            group["lr"] = full * factor
        device = batch.advantages.device
        with self._frozen_policy() if self.settings.is_critic_warmup(step) else nullcontext():
            losses = [
                self._optimizer_step(step, batch, rows)
                for order in orders
                for rows in order.to(device).chunk(self.settings.num_mini_batches)
            ]
        # Sampling needs the room.
        self.optimizer.zero_grad(set_to_none=True)
        return losses

    @contextmanager
    def _frozen_policy(self) -> Iterator[None]:
        """Leave the policy's weights, and the optimizer's moments of them, alone."""
        weights = [weight for weight in self.actor.policy.parameters() if weight.requires_grad]
        for weight in weights:
            weight.requires_grad_(False)
        try:
            yield
        finally:
            for weight in weights:
                weight.requires_grad_(True)

    def orders(self, rows: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield the order of each pass; one minibatch needs no random one."""
        for _ in range(self.settings.num_ppo_epochs):
            shuffled = self.settings.num_mini_batches > 1
            yield torch.randperm(rows, generator=generator) if shuffled else torch.arange(rows)

    def _optimizer_step(self, step: int, batch: Batch, rows: Tensor) -> Losses:
        surrogate, error = self.portions.rows(UPDATE, len(rows), partial(self._gradients, batch, rows))
        limit = math.inf if self.settings.max_grad_norm is None else self.settings.max_grad_norm
        norm = float(torch.nn.utils.clip_grad_norm_(self.actor.parameters(), limit))
        if not math.isfinite(surrogate + self.settings.vf_coef * error) or not math.isfinite(norm):
            raise TrialFailed(
                "nan", f"policy loss {surrogate}, value loss {error}, gradient norm {norm} at step {step}"
            )
        self.optimizer.step()
        return Losses(surrogate, error, norm)

    def _gradients(self, batch: Batch, rows: Tensor, at_once: int | None) -> tuple[float, float]:
        """Add up a minibatch's gradients over all processes and return its policy and value loss."""
        settings = self.settings
        tokens = int(batch.rollouts.response_mask[rows].sum())
        self.optimizer.zero_grad(set_to_none=True)
        surrogate = error = 0.0
        own = rows[self._processes.rows(len(rows))]
        for part in micro_batches(batch.rollouts.response_tokens, own, at_once) if len(own) else ():
            given = batch.select(part)
            mask = given.rollouts.response_mask
            new = self.actor(given.rollouts)
            # A minibatch's loss is a mean over its tokens, however it is cut.
            share = int(mask.sum()) / max(1, tokens)
            policy = policy_loss(new.log_probs, given.old.log_probs, given.advantages, mask, settings.cliprange)
            value = value_loss(new.values, given.old.values, given.returns, mask, settings.cliprange_value)
            (share * (policy + settings.vf_coef * value)).backward()  # type: ignore[no-untyped-call]
            surrogate, error = surrogate + share * float(policy.detach()), error + share * float(value.detach())
        self._processes.sum_gradients(self.actor.parameters())
        return self._processes.sum(surrogate), self._processes.sum(error)

    def _parameter_groups(self) -> list[dict[str, Any]]:
        rate, critic = self.settings.learning_rate, self.actor.critic
        assert critic is not None
        faster = self.settings.value_head_speedup if isinstance(critic, ValueHead) else 1.0
        return [
            {"params": [each for each in self.actor.policy.parameters() if each.requires_grad], "lr": rate},
            {"params": list(critic.parameters()), "lr": rate * faster},
        ]


def rate_factor(step: int, settings: PPOSettings) -> float:
    """Return the share of the learning rate that a training step uses: a linear warm-up, then the schedule.

    Both begin with the policy; before it the critic learns at the full rate.
    """
    if settings.is_critic_warmup(step):
        return 1.0
    step, steps = (each - settings.critic_warmup_steps for each in (step, settings.steps))
    if step < settings.warmup_steps:
        return (step + 1) / (settings.warmup_steps + 1)
    if settings.lr_scheduler_type == "constant":
        return 1.0
    return (steps - step) / max(1, steps - settings.warmup_steps)
