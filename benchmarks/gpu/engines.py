"""Sampled tokens a second of every engine that is installed."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.gpu.clock import Clock
from benchmarks.gpu.models import Workload
from pipeline.trainers.base import Task
from pipeline.trainers.ppo.agreement import check_task
from pipeline.trainers.ppo.distributed import Distributed
from pipeline.trainers.ppo.engines.choose import engine_for
from pipeline.trainers.ppo.policy import TrainedPolicy
from shaping.errors import ShapetuneError


def engine_parts(work: Workload, task: Task, vllm_python: str | None) -> list[dict[str, Any]]:
    """Return tokens a second of each engine: of the second of two batches."""
    names = ("transformers", "continuous", *(("vllm",) if vllm_python else ()))
    found = []
    for name in names:
        found.append(_engine(work, task, name, vllm_python))
        # Its policy is a copy, which has gone with the call.
        Clock(work.device).release()
    return found


def _engine(work: Workload, task: Task, name: str, vllm_python: str | None) -> dict[str, Any]:
    server = {"vllm": {"python": vllm_python, "memory_share": 0.4}} if name == "vllm" else {}
    config = work.config(1, engine=name, **server)
    clock, half = Clock(work.device), None if work.dtype == "float32" else work.torch_dtype
    policy = TrainedPolicy.of(task.policy, None).model
    uniforms = torch.rand(work.response_tokens, work.batch, generator=torch.Generator().manual_seed(3))
    found: dict[str, Any] = {"part": f"engine {name}"}
    try:
        agreement = check_task(task, policy, config.sampling)
        engine = engine_for(policy, task, config.sampling, agreement, Distributed(work.device), half, seed=0)
    except ShapetuneError as error:
        return {**found, "refused": str(error)}
    try:
        with torch.autocast(work.device, dtype=half or torch.bfloat16, enabled=half is not None):
            engine.sample(task.train_prompts, uniforms, None)
            _, spent = clock.measured(lambda: engine.sample(task.train_prompts, uniforms, None))
    finally:
        engine.close()
    tokens = work.batch * work.response_tokens
    return {**found, "tokens_per_second": tokens / spent.wall_seconds, **vars(spent)}
