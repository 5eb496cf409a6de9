"""A PPO step in its parts, each with its peak of memory beside what the doctor says of it."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.gpu.clock import Clock, Spent
from benchmarks.gpu.models import Workload
from pipeline.estimate.fit import GIB
from pipeline.estimate.step_memory import StepEstimate
from pipeline.estimate.step_seconds import step_seconds
from pipeline.trainers.base import Task
from pipeline.trainers.ppo.trainer import PPOTrainer
from shaping import Shape

WARM_UP = 1
# Part of a step to the doctor's name of it.
DOCTORS = {"sample": "sampling", "observe": "observing", "score": "scoring, reward model", "update": "updating"}


def step_parts(work: Workload, task: Task, steps: int) -> list[dict[str, Any]]:
    """Return seconds and peaks of each part of a step, means over steps, and of the whole step."""
    config = work.config(WARM_UP + steps)
    estimate = StepEstimate(config, work.outline(), on_gpu=work.device == "cuda")
    memory, seconds = estimate.memory(), step_seconds(config, estimate.models, estimate.shape)
    trainer = PPOTrainer(task, Shape(weights={"prefix": 1.0}), config.ppo, config.sampling, seed=0)
    clock, parts = Clock(work.device), dict[str, Spent]()
    for step in range(WARM_UP):
        trainer.step(step)
    engine: Any = trainer._engine
    with (
        clock.watching(parts, engine, sample="sample"),
        clock.watching(parts, trainer, _observed="observe", _shaped="score"),
        clock.watching(parts, trainer._update, _optimizer_step="update"),
    ):
        whole = Spent()
        for step in range(WARM_UP, WARM_UP + steps):
            whole.add(clock.measured(partial(trainer.step, step))[1])
    found = []
    for name, spent in parts.items():
        doctors = DOCTORS[name]
        found.append(
            {
                "part": f"step: {name}",
                "wall_seconds": spent.wall_seconds / steps,
                "peak_gib": spent.peak_gib,
                "doctor_gib": (memory.stays + memory.parts[doctors]) / GIB,
                "doctor_seconds": seconds.parts.get(doctors.partition(",")[0]),
            }
        )
    rate = work.batch * work.response_tokens * steps / whole.wall_seconds
    update = parts["update"].wall_seconds / steps
    flops = operations(work.policy, work.batch, work.prompt_tokens, work.response_tokens, config.ppo.num_ppo_epochs)
    whole_step = {"part": "step", "wall_seconds": whole.wall_seconds / steps, "doctor_gib": memory.peak / GIB}
    return [*found, {**whole_step, "tokens_per_second": rate, "update_tflops": flops / update / 1e12}]


def operations(size: dict[str, int], batch: int, prompt: int, response: int, epochs: int) -> float:
    """Return the operations of one update: layers see whole sequences, the head sees the response only.

    They are 6 for each weight and token that it is applied to; attention and what is computed again are not counted.
    """
    hidden, width = size["hidden_size"], size["num_attention_heads"] * size["head_dim"]
    key_width = size["num_key_value_heads"] * size["head_dim"]
    layer = 2 * hidden * width + 2 * hidden * key_width + 3 * hidden * size["intermediate_size"]
    layers, head = size["num_hidden_layers"] * layer, hidden * size["vocab_size"]
    return 6.0 * epochs * batch * (layers * (prompt + response) + head * response)
