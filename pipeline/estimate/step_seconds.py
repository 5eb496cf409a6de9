"""How long a training step and a study may take on one GPU: products and bytes, over what such a GPU is sold for.

These are estimates from data sheets, and from one measurement: a layer's kernels take about a millisecond a token to be
started when a model is sampled from. No GPU was at hand to hold them against.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config.schema import StudyConfig
from pipeline.estimate.step_memory import RunModels, StepShape
from shaping.credit import METHODS

# An A100 of 80 GB (data sheet): products in bfloat16 and float32 a second, and bytes a second.
HALF_FLOPS, FLOPS, BYTES_A_SECOND = 312e12, 19.5e12, 2.0e12
# Share of those products that training reaches.
REACHED = 0.4
# Until all kernels of one layer are started.
SECONDS_A_LAYER = 1e-3
# Products a weight and token: forwards; forwards and backwards; the same with layers found again.
FORWARD, TRAINED, RECOMPUTED = 2, 6, 8
# Arms of a confirmation: winner and rivals.
CONFIRMED_ARMS = 5


@dataclass(frozen=True)
class StepSeconds:
    """Seconds of each part of a step; ``study`` are those of all runs, one after another."""

    parts: dict[str, float]
    study: float

    @property
    def step(self) -> float:
        """Of one step."""
        return sum(self.parts.values())


def step_seconds(config: StudyConfig, models: RunModels, shape: StepShape) -> StepSeconds:
    """Return what steps and study may take.

    Args:
        config: The study's.
        models: Of a run.
        shape: How large a step is.
    """
    rows, responses = config.ppo.batch_size, config.ppo.batch_size * shape.response_tokens
    tokens = rows * shape.row_tokens
    flops = REACHED * (HALF_FLOPS if models.is_half else FLOPS)
    policy, critic = (_weights(each) for each in (models.actor.policy, models.actor.critic))
    each_pass = (RECOMPUTED if config.ppo.gradient_checkpointing else TRAINED) * (policy + critic) * tokens
    parts = {
        "sampling": _sampling(models, shape, rows),
        "observing": FORWARD * (2 * policy + critic) * tokens / flops,
        "updating": config.ppo.num_ppo_epochs * each_pass / flops,
    }
    reward = models.judges.get("reward model")
    if reward is not None:
        judged = FORWARD * _weights(reward)
        speed = REACHED * (HALF_FLOPS if reward.dtype.itemsize < 4 else FLOPS)
        coalitions = max((_coalitions(config, name) for name in config.space.methods), default=0)
        # Prompts are forwarded once, and on average half of a response is present.
        parts["scoring"] = judged * tokens / speed
        parts["credit"] = judged * coalitions * responses / 2 / speed
    trained = config.ppo.steps * sum(parts.values())
    judging = config.evaluation.prompts / rows * (parts["sampling"] + parts["observing"] + parts.get("scoring", 0.0))
    runs = config.search.trials * len(config.search.seeds) + CONFIRMED_ARMS * len(config.confirm.seeds)
    return StepSeconds(parts, runs * (trained + judging))


def _sampling(models: RunModels, shape: StepShape, rows: int) -> float:
    policy = models.actor.policy
    config, width = policy.config.get_text_config(), 2 if models.is_half else 4
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    at_once = min(rows, shape.sampled)
    kept = 2 * width * config.num_hidden_layers * heads * size * at_once * shape.row_tokens
    each = max(SECONDS_A_LAYER * config.num_hidden_layers, (width * _weights(policy) + kept / 2) / BYTES_A_SECOND)
    return float(-(-rows // at_once) * shape.response_tokens * each)


def _coalitions(config: StudyConfig, name: str) -> int:
    return config.shape.budget if METHODS[name].by_units else 0


def _weights(model: object) -> int:
    return sum(weight.numel() for weight in model.parameters()) if model is not None else 0  # type: ignore[attr-defined]
