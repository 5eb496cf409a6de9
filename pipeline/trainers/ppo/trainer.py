"""PPO with token rewards: one batch of rollouts, shaping and update at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.trainers.base import Prompts, Task, is_quantized
from pipeline.trainers.ppo.actor import Actor, TokenOutputs
from pipeline.trainers.ppo.agreement import check_first_batch, check_task
from pipeline.trainers.ppo.checkpoint import Checkpoint
from pipeline.trainers.ppo.critics import NetworkCritic, RewardCritic, ValueHead
from pipeline.trainers.ppo.distributed import Distributed
from pipeline.trainers.ppo.engines.choose import engine_for
from pipeline.trainers.ppo.health import check_engine, check_responses, check_reward_scale
from pipeline.trainers.ppo.log_probs import check_head
from pipeline.trainers.ppo.losses import kl_estimate, masked_mean, whiten
from pipeline.trainers.ppo.policy import TrainedPolicy
from pipeline.trainers.ppo.portions import OBSERVE, SAMPLE, UPDATE, Portions
from pipeline.trainers.ppo.rollout import Sampled, check_evaluating
from pipeline.trainers.ppo.settings import PPOSettings, SamplingSettings
from pipeline.trainers.ppo.update import Batch, PolicyUpdate
from shaping.advantages import generalized_advantages
from shaping.certificate import Certificate
from shaping.errors import ConfigError
from shaping.rollouts import Rollouts
from shaping.shape import Shape
from shaping.shaper import ShapedRewards, Shaper


@dataclass(frozen=True)
class CurvePoint:
    """What one training step showed, before its update; rewards are unshaped.

    Attributes:
        step: Training step, from 0.
        reward: Mean score of the batch, in reward-model units.
        kl_nats: Mean over responses of the summed log ratio to the reference.
        objective: ``J = reward - kl_price * kl_nats``; higher is better.
        response_tokens: Mean length.
        entropy_nats: Mean entropy of a token.
        policy_loss: Clipped surrogate loss of the update's last pass.
        value_loss: Value loss of the update's last pass.
        explained_variance: Share of the returns' variance that the critic explained before the update.
        engine_ratio: Mean over tokens of the policy's probability over that of the engine that sampled them; ``None``
            where the policy itself was sampled from.
        engine_kl_nats: Mean over tokens of the engine's log-probability less the policy's; ``None`` likewise.
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
    engine_ratio: float | None = None
    engine_kl_nats: float | None = None

    def to_dict(self) -> dict[str, float]:
        """Return the point as plain values, without those that it does not have."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Observed:
    """What policy and reference say of a batch.

    Attributes:
        own: What the policy says.
        reference_log_probs: ``B x T``, in nats.
        engine_log_ratio: ``B x T``, the policy's log-probabilities less those of the engine that sampled; ``None``
            where the policy itself was sampled from.
    """

    own: TokenOutputs
    reference_log_probs: Tensor
    engine_log_ratio: Tensor | None = None

    def kl_nats(self, mask: Tensor) -> float:
        """Return the mean over responses of the summed log ratio to the reference."""
        ratio = kl_estimate(self.own.log_probs, self.reference_log_probs, "k1")
        return float((ratio * mask).sum(dim=1).mean())


class PPOTrainer:
    """Trains a copy of the task's policy under one shape.

    Args:
        task: Models and prompts; its models are moved to the device.
        shape: Where the reward falls.
        settings: PPO's settings.
        sampling: How responses are sampled.
        seed: Decides prompts, sampling and minibatch order; two shapes with one seed see the same prompts and
            random numbers (common random numbers).
        kl_price: Price of a nat of KL in J; ``None`` takes that of the training.
        kept_portions: The file that keeps what had to be cut smaller to fit into memory; ``None`` keeps nothing.

    Raises:
        ConfigError: The settings do not fit the machine or the task's models, or what the models say does not agree.
        TrialFailed: A score is not finite (``nan``).
    """

    def __init__(
        self,
        task: Task,
        shape: Shape,
        settings: PPOSettings,
        sampling: SamplingSettings,
        seed: int,
        kl_price: float | None = None,
        kept_portions: Path | None = None,
    ) -> None:
        self.kl_price = settings.kl_coef if kl_price is None else kl_price
        self.task, self.shape, self.settings, self.sampling, self.seed = task, shape, settings, sampling, seed
        self.processes = Distributed(settings.device)
        self.processes.check_rows(settings.batch_size, "ppo.batch_size")
        self.certificate = Certificate.empty(shape)
        self.credit_tokens = self.credit_coalitions = 0
        check_evaluating(task.policy)
        check_head(task.policy.to(self.processes.device))
        for judge in (task.reward_model, task.gold_model):
            # A reward model with a tokenizer of its own wraps the one that holds the weights.
            model = getattr(getattr(judge, "inner", judge), "model", None)
            device = self.processes.device
            # The library puts quantized weights onto a GPU as it loads them, and lets few of them be moved.
            if isinstance(model, PreTrainedModel) and not (is_quantized(model) and model.device.type == device.type):
                model.to(device)
        self._shaper = Shaper(shape, task.reward_model, task.tokenizer, seed)
        banned = None if sampling.stop_at_eos else list(task.end_token_ids)
        torch.manual_seed(seed)
        # Set back as well: an earlier run of this process may have wanted it.
        torch.backends.cuda.matmul.allow_tf32 = settings.tf32
        self.policy = TrainedPolicy.of(task.policy, settings.lora)
        half = torch.bfloat16 if self.precision == "bfloat16" else None
        self._is_half = half is not None
        critic = self._new_critic().to(self.processes.device)
        self.actor = Actor(self.policy.model, critic, banned, sampling.temperature, half)
        self.reference = Actor(task.policy, None, banned, sampling.temperature, half)
        if settings.gradient_checkpointing:
            self.actor.recompute_layers()
        self._agreement = check_task(task, self.policy.model, sampling)
        wanted = {SAMPLE: sampling.micro_batch_size, OBSERVE: settings.micro_batch_size}
        self.portions = Portions({**wanted, UPDATE: settings.micro_batch_size}, kept_portions)
        self._update = PolicyUpdate(self.actor, settings, self.processes, self.portions)
        self._engine = engine_for(self.policy.model, task, sampling, self._agreement, self.processes, half, seed)
        order = torch.Generator().manual_seed(seed)
        self._prompt_order = torch.randperm(len(task.train_prompts), generator=order)

    def steps(self, start: int = 0) -> Iterator[CurvePoint]:
        """Yield one curve point a training step, from step ``start`` on.

        Raises:
            TrialFailed: A reward, loss or gradient is not finite (``nan``), the policy left the reference's
                neighbourhood (``kl_limit``), says one thing only (``collapse``) or nothing (``empty_responses``),
                differs from the reference before any update (``disagreement``), or memory did not suffice for half a
                micro-batch either (``out_of_memory``).
        """
        for step in range(start, self.settings.steps):
            yield self.step(step)

    def close(self) -> None:
        """Give back what sampling holds."""
        self._engine.close()

    def checkpoint(self, **values: Any) -> Checkpoint:
        """Return the run's state after a training step, with the caller's own ``values`` beside it."""
        tensors: dict[str, Tensor] = {f"actor.{name}": tensor for name, tensor in self._trained().items()}
        for place, moments in self._update.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{place}.{name}": tensor for name, tensor in moments.items()}
        tensors |= {"generator.shaper": self._shaper.generator_state(), "generator.torch": torch.get_rng_state()}
        cost = {"credit_tokens": self.credit_tokens, "credit_coalitions": self.credit_coalitions}
        return Checkpoint(tensors, {"certificate": self.certificate.to_dict(), **cost, **values})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over the state of a checkpoint of a run with the same task, shape, settings and seed."""
        tensors = checkpoint.tensors
        with torch.no_grad():
            for name, parameter in self._trained().items():
                parameter.copy_(tensors[f"actor.{name}"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, place, moment = name.split(".")
                moments.setdefault(int(place), {})[moment] = value
        optimizer = self._update.optimizer
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        self._engine.policy_changed()
        self._shaper.set_generator_state(tensors["generator.shaper"])
        torch.set_rng_state(tensors["generator.torch"])
        self.certificate = Certificate.from_dict(checkpoint.values["certificate"])
        self.credit_tokens = int(checkpoint.values["credit_tokens"])
        # Checkpoints of earlier versions do not know it.
        self.credit_coalitions = int(checkpoint.values.get("credit_coalitions", 0))

    def step(self, step: int) -> CurvePoint:
        """Return the curve point of one training step: sample, shape, update."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        rollouts, observed = self.sample(self._prompts(step), generator)
        check_responses(step, rollouts, self.task.end_token_ids, self.settings)
        if step == 0 and not self._is_half:
            check_first_batch(observed.own.log_probs, observed.reference_log_probs, rollouts, self._agreement)
        token_rewards, scores = self._shaped(rollouts)
        mask, old = rollouts.response_mask, observed.own
        kl_nats, reward = observed.kl_nats(mask), float(scores.mean())
        check_reward_scale(step, token_rewards, kl_nats, self.settings)
        penalty = kl_estimate(old.log_probs, observed.reference_log_probs, self.settings.kl_estimator)
        rewards = (token_rewards - self.settings.kl_coef * penalty) * mask
        # A critic that knows nothing yet is taught what came, not its own guesses.
        gae_lambda = 1.0 if self.settings.is_critic_warmup(step) else self.shape.gae_lambda
        advantages, returns = generalized_advantages(rewards, old.values, mask, self.shape.gamma, gae_lambda)
        engine = self._engine_agreement(step, observed, mask)
        advantages = whiten(advantages, mask) * self._importance(observed)
        batch = Batch(rollouts, old, advantages, returns)
        losses = self._update(step, batch, self._update.orders(len(rollouts), generator))[-1]
        self._engine.policy_changed()
        return CurvePoint(
            step=step,
            reward=reward,
            kl_nats=kl_nats,
            objective=reward - self.kl_price * kl_nats,
            response_tokens=float(rollouts.response_tokens.float().mean()),
            entropy_nats=float(masked_mean(old.entropy, mask)),
            policy_loss=losses.policy,
            value_loss=losses.value,
            explained_variance=_explained_variance(old.values, returns, mask),
            **engine,
        )

    def _engine_agreement(self, step: int, observed: Observed, mask: Tensor) -> dict[str, float]:
        """Return what a curve point says of an engine that is not the policy itself."""
        log_ratio = observed.engine_log_ratio
        if log_ratio is None:
            return {}
        kl_nats = -float(masked_mean(log_ratio, mask))
        check_engine(step, kl_nats)
        return {"engine_ratio": float(masked_mean(log_ratio.exp(), mask)), "engine_kl_nats": kl_nats}

    def _importance(self, observed: Observed) -> Tensor | float:
        """Return each token's weight (``B x T``): its ratio, up to a cap (Ionides, 2008)."""
        log_ratio, cap = observed.engine_log_ratio, self.sampling.importance_cap
        return 1.0 if log_ratio is None or cap is None else log_ratio.exp().clamp(max=cap)

    def sample(self, prompts: Prompts, generator: torch.Generator) -> tuple[Rollouts, Observed]:
        """Return responses of the current policy, and what policy and reference say of them.

        Each process samples its share and asks for it.
        """
        width, total, device = self.sampling.response_tokens, len(prompts), self.processes.device
        uniforms = torch.rand(width, total, generator=generator)
        rows = self.processes.rows(total)
        ids, mask = prompts.ids.to(device), prompts.mask.to(device)
        sample = partial(self._engine.sample, Prompts(ids[rows], mask[rows]), uniforms[:, rows])
        with self.actor.half_precision():
            own = self.portions.rows(SAMPLE, len(ids[rows]), sample)
        said, rollouts = self._observed(own), own.rollouts
        if self.processes.count > 1:
            # Shares differ in their longest response.
            missing = width - rollouts.response_ids.shape[1]
            both = torch.stack([rollouts.response_ids, rollouts.response_mask.long()], dim=1)
            found, said = (self.processes.gather(nn.functional.pad(each, (0, missing)), total) for each in (both, said))
            whole = Rollouts(ids, mask, found[:, 0], found[:, 1].bool())
            longest = int(whole.response_tokens.max())
            rollouts, said = whole.first(longest), said[..., :longest]
        log_probs, values, entropy, reference, *engine = said.unbind(dim=1)
        ratio = log_probs - engine[0] if engine else None
        return rollouts, Observed(TokenOutputs(log_probs, values, entropy), reference, ratio)

    def _observed(self, sampled: Sampled) -> Tensor:
        """Return log-probabilities, values, entropies and the reference's log-probabilities: ``B x 4 x T``.

        Where an engine of another kind sampled, its own log-probabilities come fifth.

        Rounding makes half precision's states depend on how they were found: there the policy is asked again, in
        whole sequences as the update asks it.
        """
        given = sampled.rollouts
        whole = partial(self.actor.observe, given, with_entropy=True, states=sampled.states)
        own = self.portions.rows(OBSERVE, len(given), whole)
        reference = self.portions.rows(OBSERVE, len(given), partial(self.reference.observe, given))
        engine = () if sampled.log_probs is None else (sampled.log_probs,)
        return torch.stack([own.log_probs, own.values, own.entropy, reference.log_probs, *engine], dim=1)

    def missing_eos_adjustment(self, rollouts: Rollouts) -> Tensor | None:
        """Return what the missing end takes off each score (``B``): part of the total under every shape."""
        if not self.sampling.stop_at_eos or self.sampling.missing_eos_penalty == 0:
            return None
        ids = rollouts.response_ids
        ended = torch.isin(ids, torch.tensor(self.task.end_token_ids, device=ids.device)) & rollouts.response_mask
        missing: Tensor = ~ended.any(dim=1)
        return -self.sampling.missing_eos_penalty * missing.float()

    def _shaped(self, rollouts: Rollouts) -> tuple[Tensor, Tensor]:
        """Return token rewards (``B x T``), scaled, and scores (``B``), and note them in the certificate."""
        forwarded = coalitions = 0

        def shape(given: Rollouts) -> Tensor:
            nonlocal forwarded, coalitions
            before = self._shaper.generator_state()

            def shaped_again() -> ShapedRewards:
                self._shaper.set_generator_state(before)
                return self._shaper.shaped(given, adjustment=self.missing_eos_adjustment(given))

            shaped = self.portions.passes(self.task.reward_model, shaped_again)
            forwarded, coalitions = shaped.forwarded_tokens, shaped.coalitions
            return torch.cat([shaped.scores[:, None], shaped.token_rewards], dim=1).to(given.response_ids.device)

        found = self.processes.each(rollouts, shape)
        scores, token_rewards = found[:, 0], self.settings.reward_scale * found[:, 1:]
        self.certificate = self.certificate.including(token_rewards, scores, rollouts)
        self.credit_tokens += int(self.processes.sum(forwarded))
        self.credit_coalitions += int(self.processes.sum(coalitions))
        return token_rewards, scores

    def _prompts(self, step: int) -> Prompts:
        size = self.settings.batch_size
        places = torch.arange(step * size, (step + 1) * size) % len(self._prompt_order)
        return self.task.train_prompts.select(self._prompt_order[places])

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: each for name, each in self.actor.named_parameters() if each.requires_grad}

    @property
    def precision(self) -> str:
        """``bfloat16`` or ``float32``: of the policy's matrix products."""
        chosen, is_half = self.settings.precision, self.task.policy.dtype == torch.bfloat16
        if chosen != "auto":
            return chosen
        return "bfloat16" if is_half or self.processes.device.type == "cuda" else "float32"

    def _new_critic(self) -> nn.Module:
        if self.settings.critic == "value_head":
            return ValueHead(self.task.policy.config.get_text_config().hidden_size)
        if self.settings.critic == "network":
            return NetworkCritic(self.task.policy)
        source = self.task.critic_source
        if source is None:
            raise ConfigError(
                "ppo.critic = reward_model, but the reward model does not score prefixes in the policy's tokens, or is "
                "quantized",
                "set ppo.critic to value_head or network",
            )
        return RewardCritic.of(source)


def _explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    target = returns[mask]
    variance = target.var()
    return float(1 - (target - values[mask]).var() / variance) if float(variance) > 0 else 0.0
