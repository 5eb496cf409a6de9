"""Whether a config's runs fit into the memory of a GPU, and with which setting they would."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.config.schema import StudyConfig
from pipeline.estimate.outlines import outline_of
from pipeline.estimate.step_memory import OBSERVING, SAMPLING, SCORING, UPDATING, StepEstimate, StepMemory
from pipeline.estimate.step_seconds import StepSeconds, step_seconds
from shaping.errors import ConfigError

GIB = 2**30
# What the driver's context takes, and the share of the rest that fragments leave. Neither was measured here.
CONTEXT_BYTES, USABLE = 1 * GIB, 0.95
# What is set to fewer responses where a part does not fit.
SETTINGS = {SAMPLING: "sampling.micro_batch_size", OBSERVING: "ppo.micro_batch_size", UPDATING: "ppo.micro_batch_size"}


@dataclass(frozen=True)
class Fit:
    """How a run fits.

    Attributes:
        memory: What each part takes.
        usable: Bytes that a run may take.
        estimate: What it was found with.
        seconds: What steps and study may take.
    """

    memory: StepMemory
    usable: int
    estimate: StepEstimate
    seconds: StepSeconds

    def largest_update(self) -> int:
        """Return how many responses of one forward and backward pass would fit."""
        return self.estimate.largest_rows(UPDATING, self.usable - self.memory.stays)

    def line(self) -> str:
        """Return it in one line."""
        hours = self.seconds.study / 3600
        return (
            f"a run takes {self.memory.peak / GIB:.1f} of {self.usable / GIB:.1f} GiB at its peak, "
            f"{self.memory.largest_part}; an A100 might take {self.seconds.step:.3g} s a step and {hours:.3g} hours "
            "for the study"
        )


def fit_into(config: StudyConfig, gpu_gib: float) -> Fit:
    """Return how a config's runs fit into a GPU.

    Args:
        config: The study's.
        gpu_gib: Memory of the GPU, or of a run's share of it.

    Raises:
        ConfigError: They do not: names the part, and the setting with which they would.
    """
    estimate = StepEstimate(config, outline_of(config), on_gpu=True)
    share = 1 - config.sampling.served_share
    memory, usable = estimate.memory(), int(USABLE * (share * gpu_gib * GIB - CONTEXT_BYTES))
    room = usable - memory.stays
    # The engine halves its passes where they do not fit.
    parts = {name: min(taken, room) if name.startswith(SCORING) else taken for name, taken in memory.parts.items()}
    memory = replace(memory, parts=parts)
    fit = Fit(memory, usable, estimate, step_seconds(config, estimate.models, estimate.shape))
    if room <= 0:
        raise ConfigError(
            f"weights and optimizer take {memory.stays / GIB:.1f} GiB, of which a GPU of {gpu_gib:g} GiB has "
            f"{usable / GIB:.1f}",
            _smaller_weights(config),
        )
    for part, taken in sorted(memory.parts.items(), key=lambda each: -each[1]):
        if taken > room and not part.startswith(SCORING):
            raise ConfigError(
                f"{part} takes {taken / GIB:.1f} GiB beside the {memory.stays / GIB:.1f} GiB that stay, of which a GPU "
                f"of {gpu_gib:g} GiB has {usable / GIB:.1f}",
                _remedy(estimate, part, room),
            )
    return fit


def _remedy(estimate: StepEstimate, part: str, room: int) -> str:
    config = estimate.config
    if part not in SETTINGS:
        return "load the reward model in half precision (dtype: bfloat16), or lower sampling.response_tokens"
    rows = estimate.largest_rows(part, room)
    if rows >= 1:
        return f"set {SETTINGS[part]} to {rows}"
    if part == UPDATING and not config.ppo.gradient_checkpointing:
        return "set ppo.gradient_checkpointing to true, and ppo.micro_batch_size to 1"
    return "lower sampling.response_tokens or task.max_prompt_tokens, or train an adapter (ppo.lora)"


def _smaller_weights(config: StudyConfig) -> str:
    if config.ppo.lora is None:
        return "train an adapter (ppo.lora: {rank: 16}), and load the models in half precision (dtype: bfloat16)"
    return "load all models in half precision (dtype: bfloat16), or the reward model in 4 bits (quantization: nf4)"
