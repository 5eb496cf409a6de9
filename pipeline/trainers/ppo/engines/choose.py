"""The engine that a config asks for."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from pipeline.trainers.base import Task
from pipeline.trainers.ppo.agreement import Agreement
from pipeline.trainers.ppo.distributed import Distributed
from pipeline.trainers.ppo.engines.base import SamplingEngine
from pipeline.trainers.ppo.engines.continuous import ContinuousEngine
from pipeline.trainers.ppo.engines.loop import LoopEngine
from pipeline.trainers.ppo.engines.vllm import VllmEngine
from pipeline.trainers.ppo.settings import SamplingSettings
from shaping.errors import ConfigError


def engine_for(
    policy: PreTrainedModel,
    task: Task,
    settings: SamplingSettings,
    agreement: Agreement,
    processes: Distributed,
    half: torch.dtype | None,
    seed: int,
) -> SamplingEngine:
    """Return what samples a run's responses.

    Args:
        policy: What is trained.
        task: Its prompts, tokenizer and end tokens.
        settings: Which engine, and how it samples.
        agreement: What was found of the policy before.
        processes: Those that train together.
        half: The type that the policy's products are computed in; ``None`` computes in its weights' own.
        seed: The run's.

    Raises:
        ConfigError: The engine cannot be had, or not for several processes.
        TrialFailed: Its server did not start (``sampling_server``).
    """
    if settings.engine == "continuous":
        return ContinuousEngine(policy, settings, task.end_token_ids, half)
    if settings.engine == "vllm":
        if processes.count > 1:
            raise ConfigError(
                f"sampling.engine = vllm serves one process, and {processes.count} train together",
                "set sampling.engine to continuous, or train with one process",
            )
        return VllmEngine(policy, task, settings, half, seed)
    # Half precision asks the policy again: its states depend on how they were found.
    return LoopEngine(policy, settings, task.end_token_ids, agreement.cached, keeps_states=half is None)
