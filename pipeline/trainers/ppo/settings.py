"""Settings of the inner loop, under TRL's option names where TRL has one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from pipeline.runtime.section import Section

# Of weights and prices: beyond it, single precision has no room for what they weigh.
LARGEST = 1e6
Critic = Literal["value_head", "network", "reward_model"]
# What a study may search beside the shape (``space.trainer``): all that changes how a policy learns, whatever the
# others are. What a run costs or needs is not among it, and neither is what prices KL in another way.
SEARCHED = (
    "critic",
    "learning_rate",
    "lr_scheduler_type",
    "kl_coef",
    "batch_size",
    "num_ppo_epochs",
    "num_mini_batches",
    "cliprange",
    "vf_coef",
    "max_grad_norm",
    "critic_warmup_steps",
)


class VllmSettings(Section):
    """A vLLM server, started beside each run or already running."""

    url: str | None = Field(None, description="Where one runs already; unset starts one beside each run.")
    python: str | None = Field(
        None, description="The interpreter that has vLLM, to start it with; unset takes the one that runs this."
    )
    memory_share: float = Field(
        0.3, gt=0, lt=1, description="Of the GPU's memory: weights, keys and values of the server that is started."
    )
    weights_folder: Path | None = Field(
        None, description="Where the policy's weights pass through, for the server to read; unset takes shared memory."
    )
    concurrency: int = Field(256, ge=1, le=4096, description="Requests at a time.")
    start_minutes: float = Field(10.0, gt=0, le=1440, description="How long a start may take.")
    answer_minutes: float = Field(10.0, gt=0, le=1440, description="How long an answer may take.")

    @field_validator("url")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("give an address that begins with http:// or https://")
        return value


class SamplingSettings(Section):
    """How responses are sampled."""

    response_tokens: int = Field(24, ge=1, le=4096, description="Longest response, in tokens.")
    stop_at_eos: bool = Field(False, description="End a response at end-of-sequence; otherwise none is sampled.")
    missing_eos_penalty: float = Field(
        0.0, ge=0, le=LARGEST, description="Taken off the score of a response without its end."
    )
    temperature: float = Field(1.0, ge=1e-3, le=10, description="Of the policy's distribution over tokens.")
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        # Runs and studies from before it existed are found by a hash of their settings.
        exclude_if=lambda rows: rows is None,
        description="Responses sampled at a time, in training and evaluation; unset samples a whole batch.",
    )
    engine: Literal["transformers", "continuous", "vllm"] = Field(
        "transformers",
        exclude_if=lambda name: name == "transformers",
        description="transformers reads a whole batch token by token; continuous is its continuous batching, in which "
        "no response waits for a longer one; vllm asks a server.",
    )
    vllm: VllmSettings | None = Field(
        None, exclude_if=lambda chosen: chosen is None, description="The server, where sampling.engine is vllm."
    )
    importance_cap: float | None = Field(
        None,
        ge=1,
        le=LARGEST,
        exclude_if=lambda cap: cap is None,
        description="Weigh each token by how much likelier it is to the policy than to the engine that sampled it, up "
        "to this much (truncated importance sampling); unset weighs none.",
    )

    @property
    def server(self) -> VllmSettings:
        """How a vLLM server is had."""
        return self.vllm or VllmSettings()

    @property
    def served_share(self) -> float:
        """Of the GPU's memory: what a server beside the trainer takes."""
        return self.server.memory_share if self.engine == "vllm" and self.server.url is None else 0.0

    @model_validator(mode="after")
    def _fits_the_engine(self) -> SamplingSettings:
        if self.vllm is not None and self.engine != "vllm":
            raise ValueError(f"sampling.vllm is not used by sampling.engine = {self.engine}; leave it out")
        if self.importance_cap is not None and self.engine == "transformers":
            raise ValueError(
                "sampling.importance_cap corrects what another engine samples, and sampling.engine = transformers "
                "samples from the policy itself; leave it out"
            )
        return self


class LoraSettings(Section):
    """A low-rank adapter in place of a copy of the policy."""

    rank: int = Field(16, ge=1, le=65_536, description="Of the adapter's matrices.")
    alpha: int = Field(32, ge=1, le=1_000_000, description="The adapter is scaled by alpha over rank.")
    target_modules: str | tuple[str, ...] = Field(
        "all-linear", description="Names of the modules that are adapted, or all-linear."
    )


class PPOSettings(Section):
    """Settings of PPO. ``gamma`` and ``lambda`` belong to the shape."""

    steps: int = Field(20, ge=1, le=10_000_000, description="Batches of rollouts.")
    batch_size: int = Field(32, ge=2, le=1_000_000, description="Responses in a batch.")
    num_ppo_epochs: int = Field(2, ge=1, le=10_000, description="Passes over each batch.")
    num_mini_batches: int = Field(1, ge=1, description="Optimizer steps in a pass; at most ppo.batch_size.")
    save_steps: int = Field(
        10, ge=0, description="Training steps between checkpoints, from which a killed run resumes; 0 writes none."
    )
    learning_rate: float = Field(7e-4, gt=0, le=1, description="Of the policy, at its highest.")
    lr_scheduler_type: Literal["linear", "constant"] = Field(
        "linear", description="Linear falls to zero over the run, which keeps a fast learner from drifting at its end."
    )
    warmup_steps: int = Field(0, ge=0, description="Training steps over which the learning rate rises.")
    critic_warmup_steps: int = Field(
        0,
        ge=0,
        # Runs and studies from before it existed are found by a hash of their settings.
        exclude_if=lambda steps: steps == 0,
        description="Training steps, the first of ppo.steps, in which the critic alone learns, from whole returns.",
    )
    micro_batch_size: int | None = Field(
        None, ge=1, description="Responses in one forward pass of the update; gradients add up over a minibatch."
    )
    adam_betas: tuple[float, float] = Field((0.9, 0.95), description="Adam's two decay rates, from 0 and below 1.")
    adam_epsilon: float = Field(1e-8, ge=1e-30, le=1, description="Adam's.")
    max_grad_norm: float | None = Field(1.0, gt=0, description="Longer gradients are cut to it; unset cuts none.")
    value_head_speedup: float = Field(
        2.0,
        gt=0,
        le=LARGEST,
        description="Learning rate of a value head, which starts from nothing, over the policy's.",
    )
    cliprange: float = Field(0.2, gt=0, lt=1, description="Of the ratio of probabilities.")
    cliprange_value: float = Field(0.5, gt=0, le=LARGEST, description="Of the change of a value.")
    vf_coef: float = Field(0.5, ge=0, le=LARGEST, description="Weight of the critic's loss.")
    kl_coef: float = Field(
        0.05,
        ge=0,
        le=LARGEST,
        description="Price of a nat of KL(policy || reference); of J, too, where objective.kl_price is unset.",
    )
    kl_estimator: Literal["k1", "k3"] = Field("k1", description="How the KL of a token is estimated.")
    reward_scale: float = Field(
        1.0,
        gt=0,
        le=100,
        description="What token rewards are multiplied by before KL is priced, so that KL weighs less; a control for "
        "studies that need not preserve the policy. J and all that is reported stay unscaled.",
    )
    kl_limit_nats: float = Field(200.0, gt=0, description="A batch whose mean KL is further from 0 ends the trial.")
    collapse_share: float = Field(
        0.9, gt=0, le=1, description="One token's share of a batch beyond which the trial ends; 1 never ends it."
    )
    collapse_tokens: int = Field(64, ge=1, description="Smaller batches are not judged by their tokens.")
    critic: Critic = Field(
        "value_head",
        description="A head on the policy's trunk, a network of its own, or one initialised from the reward model.",
    )
    lora: LoraSettings | None = Field(None, description="Unset trains all weights.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where torch sees one.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Of the policy's matrix products; what is trained stays float32. auto: bfloat16 on a GPU, and "
        "where task.policy.dtype says so.",
    )
    tf32: bool = Field(
        False,
        exclude_if=lambda allowed: not allowed,
        description="On a GPU, let products in float32 round what they multiply to 10 bits: several times as fast.",
    )
    gradient_checkpointing: bool = Field(False, description="Recompute layers in the update: less memory, more time.")

    @field_validator("adam_betas")
    @classmethod
    def _rates(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= rate < 1 for rate in value):
            raise ValueError("each rate must be at least 0 and less than 1")
        return value

    @model_validator(mode="after")
    def _policy_learns(self) -> PPOSettings:
        if self.num_mini_batches > self.batch_size:
            raise ValueError(
                f"ppo.num_mini_batches = {self.num_mini_batches} is more than the {self.batch_size} responses of a "
                "batch; set it lower, or ppo.batch_size higher"
            )
        if self.critic_warmup_steps >= self.steps:
            raise ValueError(
                f"ppo.critic_warmup_steps = {self.critic_warmup_steps} leaves none of the {self.steps} steps to the "
                "policy; set it lower, or ppo.steps higher"
            )
        return self

    def is_critic_warmup(self, step: int) -> bool:
        """Return whether the critic alone learns in a training step (value pretraining: Yuan et al., 2503.01491)."""
        return step < self.critic_warmup_steps

    def saves_after(self, done_steps: int) -> bool:
        """Return whether a checkpoint is due after so many training steps; the last one needs none."""
        return self.save_steps > 0 and done_steps % self.save_steps == 0 and done_steps < self.steps


class EvaluationSettings(Section):
    """How the trained policy is judged."""

    prompts: int = Field(256, ge=2, description="Held-out prompts.")
    every_steps: int = Field(0, ge=0, description="Training steps between evaluations during a run; 0 for none.")
    curve_prompts: int = Field(64, ge=2, description="Held-out prompts of the evaluations during a run.")
    kept_texts: int = Field(3, ge=0, le=100, description="Responses kept word for word for the report.")
