"""What credit adds to a training step of the tiny model: ``python -m benchmarks.ppo.overhead RUN``.

Steps and credit take turns in one process, so that whatever slows the machine slows both. Each repeat samples new
responses, runs one sparse training step, and shapes one batch by every method.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.ppo.ours import trainer_of
from benchmarks.ppo.run import Run, hand_back
from pipeline.runtime.memory import keep_freed_memory
from shaping import Shape, Shaper

UNITS = 6
SHAPES = {
    "sparse": Shape(),
    "prefix": Shape(weights={"prefix": 1.0}),
    "attention": Shape(weights={"attention": 1.0}),
    # Tokens merged into 6 units: 24 tokens make 6 spans of 4, wherever their punctuation stands.
    "span_shapley": Shape(weights={"shapley": 1.0}, unit="token", max_units=UNITS),
}


def main() -> None:
    """Measure and print the processor seconds of the step and of each method, repeat by repeat."""
    run = Run.given()
    torch.set_num_threads(1)
    keep_freed_memory()
    trainer = trainer_of(run, "value_head")
    task = trainer.task
    shapers = {name: Shaper(shape, task.reward_model, task.tokenizer) for name, shape in SHAPES.items()}
    spent: dict[str, list[float]] = {name: [] for name in ("step", *shapers)}
    for repeat in range(run.warm_up + run.steps):
        spent["step"].append(_seconds(partial(trainer.step, repeat)))
        places = torch.arange(repeat * run.batch_size, (repeat + 1) * run.batch_size) % len(task.train_prompts)
        rollouts, _ = trainer.sample(task.train_prompts.select(places), torch.Generator().manual_seed(repeat))
        for name in rotated(list(shapers), repeat):
            spent[name].append(_seconds(partial(shapers[name], rollouts)))
    played = shapers["span_shapley"].shaped(rollouts).credits["shapley"].coalitions
    assert played == run.batch_size * 2**UNITS, f"{played} coalitions are not all of {UNITS} units"
    hand_back({name: seconds[run.warm_up :] for name, seconds in spent.items()})


def rotated(names: list[str], repeat: int) -> list[str]:
    """Return the names in an order that begins with another one in each repeat."""
    start = repeat % len(names)
    return names[start:] + names[:start]


def shares(spent: dict[str, list[float]], method: str) -> list[float]:
    """Return what a method adds to the sparse reward, as a share of a sparse step, repeat by repeat."""
    return [
        (dense - sparse) / step
        for dense, sparse, step in zip(spent[method], spent["sparse"], spent["step"], strict=True)
    ]


def _seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


if __name__ == "__main__":
    main()
