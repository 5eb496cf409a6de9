"""What each part of a training step takes of memory: found by running the models' own code on tensors of sizes alone.

A step samples, observes (policy, critic and reference read what was sampled), scores and updates. Weights stay all the
while; the rest comes and goes. So the peak of a part is what stays and what that part makes. The rows are the longest
that may come: prompts and responses of full length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from pipeline.config.schema import StudyConfig
from pipeline.estimate.live_bytes import FakeTensors, LiveBytes, size_of
from pipeline.estimate.outlines import TaskOutline
from pipeline.trainers.ppo.actor import Actor
from pipeline.trainers.ppo.critics import NetworkCritic, RewardCritic, ValueHead
from pipeline.trainers.ppo.log_probs import TokenHead
from pipeline.trainers.ppo.policy import TrainedPolicy
from pipeline.trainers.ppo.rollout import new_cache
from shaping.reward_models.attention_rows import rows_of_a_portion
from shaping.reward_models.base import MAX_TOKENS_ON_CPU, MAX_TOKENS_ON_GPU

# Adam keeps two numbers for each weight that is trained.
ADAM_MOMENTS = 2
# Parts of a step that go by responses at once, and which of a step's sizes those are.
SAMPLING, OBSERVING, UPDATING, SCORING = "sampling", "observing", "updating", "scoring"
ROWS_OF = {SAMPLING: "sampled", OBSERVING: "observed", UPDATING: "updated"}


@dataclass(frozen=True)
class StepShape:
    """How large a step is.

    Attributes:
        batch: Responses of a batch, or of the largest evaluation.
        sampled: Responses sampled at once.
        observed: Responses that are read at once.
        updated: Responses of one forward and backward pass.
        scored_tokens: Tokens of a forward pass of the reward model.
        prompt_tokens: Of the longest prompt.
        response_tokens: Of the longest response.
    """

    batch: int
    sampled: int
    observed: int
    updated: int
    scored_tokens: int
    prompt_tokens: int
    response_tokens: int

    @classmethod
    def of(cls, config: StudyConfig, prompt_tokens: int, on_gpu: bool) -> StepShape:
        """Return the shape of a config's steps and evaluations."""
        largest = max(config.ppo.batch_size, config.evaluation.prompts)
        micro = config.ppo.micro_batch_size
        update = -(-config.ppo.batch_size // config.ppo.num_mini_batches)
        return cls(
            batch=largest,
            sampled=min(largest, config.sampling.micro_batch_size or largest),
            observed=min(largest, micro or largest),
            updated=min(update, micro or update),
            scored_tokens=MAX_TOKENS_ON_GPU if on_gpu else MAX_TOKENS_ON_CPU,
            prompt_tokens=prompt_tokens,
            response_tokens=config.sampling.response_tokens,
        )

    @property
    def row_tokens(self) -> int:
        """Tokens of the longest row."""
        return self.prompt_tokens + self.response_tokens


@dataclass(frozen=True)
class StepMemory:
    """Bytes of each part.

    Attributes:
        weights: By model: what stays from the first step to the last.
        moments: Of the optimizer, from the first update on.
        parts: By part of a step: what it makes at its peak, beside what stays.
    """

    weights: dict[str, int]
    moments: int
    parts: dict[str, int]

    @property
    def stays(self) -> int:
        """Bytes that stay from the first update on."""
        return sum(self.weights.values()) + self.moments

    @property
    def peak(self) -> int:
        """Most bytes at once."""
        return self.stays + max(self.parts.values())

    @property
    def largest_part(self) -> str:
        """The part of a step that takes most."""
        return max(self.parts, key=lambda name: self.parts[name])


class StepEstimate:
    """What the steps of a config's runs take.

    Args:
        config: The study's.
        outline: Its models.
        on_gpu: Whether the device is a GPU.

    Attributes:
        shape: How large its steps are.
        models: The models of a run, without their weights.
    """

    def __init__(self, config: StudyConfig, outline: TaskOutline, on_gpu: bool) -> None:
        self.config = config
        self.shape = StepShape.of(config, outline.prompt_tokens, on_gpu)
        self._fake = FakeTensors()
        with self._fake:
            self.models = RunModels(config, outline, on_gpu)

    def memory(self) -> StepMemory:
        """Return what a step takes, part by part."""
        shape, models = self.shape, self.models
        with self._fake:
            parts = {name: compute(shape) for name, compute in self._by_rows().items()}
            for name, judge in models.judges.items():
                parts[f"{SCORING}, {name}"] = _scoring(judge, shape)
            reward = models.judges.get("reward model")
            if reward is not None and "attention" in self.config.space.methods:
                parts["attention row"] = _attention(reward, shape)
            return StepMemory(models.weights(), models.moments(), parts)

    def largest_rows(self, part: str, room: int) -> int:
        """Return how many responses of a part fit into ``room`` bytes."""
        compute, rows = self._by_rows()[part], ROWS_OF[part]

        def taken(count: int) -> int:
            size: dict[str, Any] = {rows: count}
            with self._fake:
                return compute(replace(self.shape, **size))

        # It grows evenly with them, as soon as they outweigh the gradients.
        now = int(getattr(self.shape, rows))
        one, two = taken(now), taken(2 * now)
        found = max(0, now + (room - one) * now // max(1, two - one))
        while found and taken(found) > room:
            found -= 1 + found // 16
        return found

    def _by_rows(self) -> dict[str, Callable[[StepShape], int]]:
        models = self.models
        return {SAMPLING: models.sampling, OBSERVING: models.observing, UPDATING: models.updating}


class RunModels:
    """The models of a run, made where tensors are fake."""

    def __init__(self, config: StudyConfig, outline: TaskOutline, on_gpu: bool) -> None:
        ppo, chosen = config.ppo, config.ppo.precision
        half = outline.policy.dtype != torch.float32 or (chosen == "auto" and on_gpu) or chosen == "bfloat16"
        self._half = torch.bfloat16 if half else None
        self._outline, self._engine = outline, config.sampling.engine
        self.reference = outline.policy.build()
        self._outlines = {
            name: each
            for name, each in (("reward model", outline.reward), ("gold model", outline.gold))
            if each is not None
        }
        self.judges = {name: each.build() for name, each in self._outlines.items()}
        # A float32 copy is built as one: tensors of sizes alone change no type in place.
        whole = None if ppo.lora else outline.policy.build(torch.float32).requires_grad_(True)
        policy = whole or TrainedPolicy.of(self.reference, ppo.lora).model
        self.actor = Actor(policy, self._critic(config), None, config.sampling.temperature, self._half)
        if ppo.gradient_checkpointing:
            self.actor.recompute_layers()
        self._shares = ppo.lora is not None

    @property
    def is_half(self) -> bool:
        """Whether products are in half precision."""
        return self._half is not None

    def _critic(self, config: StudyConfig) -> torch.nn.Module:
        searched = {config.ppo.critic, *_listed(config.space.trainer.get("ppo.critic", ()))}
        reward = self._outlines.get("reward model")
        if "reward_model" in searched and reward is not None:
            return RewardCritic(reward.build(torch.float32), 0.0, 1.0)
        if {"network", "reward_model"} & searched:
            return NetworkCritic(self._outline.policy.build(torch.float32))
        return ValueHead(self.reference.config.get_text_config().hidden_size)

    def weights(self) -> dict[str, int]:
        """Return the bytes of each model's weights."""
        trained = [each for each in self.actor.policy.parameters() if each.requires_grad or not self._shares]
        assert self.actor.critic is not None
        found = {"policy": size_of(trained), "critic": size_of(self.actor.critic.parameters())}
        found["reference"] = self._outline.policy.weight_bytes(self.reference)
        if self._engine == "continuous" and self.is_half:
            found["copy to sample from"] = self._half_copy()
        return found | {name: self._outlines[name].weight_bytes(model) for name, model in self.judges.items()}

    def _half_copy(self) -> int:
        """Return the bytes of the policy in half precision."""
        return 2 * sum(int(each.numel()) for each in self.actor.policy.parameters())

    def moments(self) -> int:
        """Return the bytes of the optimizer's state."""
        return ADAM_MOMENTS * size_of(each for each in self.actor.parameters() if each.requires_grad)

    def sampling(self, shape: StepShape) -> int:
        """Return what sampling makes: keys and values of whole rows, and one token's logits.

        A server has those in its own share of the memory, and is sent a copy of the weights.
        """
        if self._engine == "vllm":
            return self._half_copy() if self.is_half else 2 * self._half_copy()
        policy, rows = self.actor.policy, shape.sampled
        head = TokenHead(policy, None, 1.0)
        with torch.no_grad(), self.actor.half_precision(), self._counted() as live:
            cache: DynamicCache = new_cache(policy)
            read = {"past_key_values": cache, "use_cache": True}
            policy.base_model(input_ids=_ids(rows, shape.prompt_tokens), **read)
            first = live.most
            policy.base_model(input_ids=_ids(rows, shape.response_tokens - 1), **read)
            # What was read at once was counted as if it were read token by token.
            live.most = live.now
            state = policy.base_model(input_ids=_ids(rows, 1), **read).last_hidden_state[:, -1]
            logits = head.logits(state) / 1.1
            logits.softmax(dim=-1).cumsum(dim=-1)
        width = policy.config.get_text_config().hidden_size
        # The states of all tokens are kept one by one, and joined.
        kept = 2 * 4 * shape.batch * shape.response_tokens * width if not self.is_half else 0
        return max(first, live.most) + kept

    def observing(self, shape: StepShape) -> int:
        """Return what policy, critic and reference make as they read what was sampled."""
        with torch.no_grad(), self._counted() as live:
            self._read(shape, shape.observed, with_entropy=True)
        width = self.actor.policy.config.get_text_config().hidden_size
        return live.most + (4 * shape.batch * shape.response_tokens * width if not self.is_half else 0)

    def updating(self, shape: StepShape) -> int:
        """Return what a forward and backward pass make, gradients included."""
        with self._counted() as live:
            log_probs, values = self._read(shape, shape.updated, with_entropy=False)
            (log_probs.sum() + values.float().sum()).backward()  # type: ignore[no-untyped-call]
        return live.most

    def _read(self, shape: StepShape, rows: int, with_entropy: bool) -> tuple[Tensor, Tensor]:
        inputs = {"input_ids": _ids(rows, shape.row_tokens)}
        before = slice(shape.prompt_tokens - 1, -1)
        with self.actor.half_precision():
            states = self.actor.policy.base_model(**inputs, use_cache=False).last_hidden_state[:, before]
            log_probs, _ = self.actor.token_head(
                states.flatten(0, 1), _ids(rows, shape.response_tokens).flatten(), with_entropy
            )
            critic: Any = self.actor.critic
            return log_probs, critic(states, inputs, before)

    @contextmanager
    def _counted(self) -> Iterator[LiveBytes]:
        with LiveBytes() as live:
            live.leave_out(self.actor.parameters())
            live.leave_out(self.actor.buffers())
            yield live


def _scoring(model: PreTrainedModel, shape: StepShape) -> int:
    """Return what a forward pass of the reward model makes: as many rows as its bound has room for."""
    rows = max(1, shape.scored_tokens // shape.row_tokens)
    with torch.no_grad(), LiveBytes() as live:
        live.leave_out((*model.parameters(), *model.buffers()))
        model.base_model(input_ids=_ids(rows, shape.row_tokens))
    most: int = live.most
    return most


def _attention(model: PreTrainedModel, shape: StepShape) -> int:
    """Return what one layer's map of a portion of rows makes: three of them, for they are summed and rounded."""
    rows = rows_of_a_portion(model, {"input_ids": _ids(1, shape.row_tokens)})
    heads = int(getattr(model.config.get_text_config(), "num_attention_heads", 1))
    return 3 * 4 * rows * heads * shape.row_tokens * shape.row_tokens


def _ids(rows: int, tokens: int) -> Tensor:
    return torch.zeros(rows, max(1, tokens), dtype=torch.long)


def _listed(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else ()
