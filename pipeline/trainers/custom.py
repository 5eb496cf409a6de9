"""A trainer of the user's own as the inner problem: a study searches shapes for it as for the built-in one."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.runtime.environment import where
from pipeline.runtime.files import read_lines
from pipeline.trainers.base import TrainingJob
from shaping.certificate import Certificate
from shaping.errors import TrialFailed
from shaping.shape import Shape
from shaping.user_code import load_callable

# What a trainer reports at every step: J, and the unshaped reward and the KL from the reference that it is made of.
NEEDED = ("objective", "reward", "kl_nats")
# What it may report, too: the largest miss of a response's score by its rewards, and how many it looked at.
CERTIFICATE_ERROR, RESPONSES = "certificate_error", "certified_responses"


# Yields a step's number and what was measured at it: objective, reward, kl_nats, and whatever else.
Trainer = Callable[[TrainingJob], Iterator[tuple[int, Mapping[str, float]]]]


def find_trainer(reference: str) -> Trainer:
    """Return the function that ``package.module:name`` or ``file.py:name`` names.

    Raises:
        ConfigError: There is none.
    """
    return load_callable(reference, "trainer.function")


def run_custom(
    trainer: Trainer, arm: str, shape: Shape, seed: int, folder: Path, config: dict[str, Any]
) -> Iterator[tuple[int, dict[str, float], bool] | dict[str, Any]]:
    """Yield every step, then the seed's result; the last step's measures are the evaluation.

    A step is its number, its measures, and whether an earlier attempt made it.

    Steps that an earlier attempt told are kept in a file beside the trainer's own checkpoints, and told again first.

    Raises:
        TrialFailed: J is not finite (``nan``), or the trainer ended before its last step (``no_result``).
    """
    steps, kept = int(config["ppo"]["steps"]), folder / f"seed-{seed}.points.jsonl"
    points: dict[int, dict[str, float]] = {int(step): point for step, point in read_lines(kept)}
    yield from ((step, point, True) for step, point in sorted(points.items()))
    first = next((step for step in range(steps) if step not in points), steps)
    wall, processor = time.perf_counter(), time.process_time()
    if first < steps:
        whole = not kept.exists() or kept.read_text(encoding="utf-8").endswith("\n")
        with kept.open("a", encoding="utf-8") as file:
            file.write("" if whole else "\n")
            for step, measured in trainer(TrainingJob(arm, shape, seed, steps, first, folder, config)):
                points[step] = _checked(step, measured)
                file.write(json.dumps([step, points[step]]) + "\n")
                file.flush()
                yield step, points[step], False
    missing = next((step for step in range(steps) if step not in points), None)
    if missing is not None:
        raise TrialFailed("no_result", f"the trainer ended without step {missing} of {steps}")
    curve = [points[step] for step in range(steps)]
    yield {
        "seed": seed,
        "curve": curve,
        "held_out": [],
        "evaluation": {"gold_reward": None, **curve[-1], "texts": []},
        "certificate": _certificate(shape, curve[-1]),
        "credit_tokens": 0,
        "training_cpu_seconds": time.process_time() - processor,
        "wall_seconds": time.perf_counter() - wall,
        "machine": where(None, "own trainer"),
    }


def _checked(step: int, measured: Mapping[str, float]) -> dict[str, float]:
    point = {str(name): float(value) for name, value in measured.items()}
    for name in NEEDED:
        if name not in point:
            raise TrialFailed("no_result", f"the trainer measured no {name} at step {step}")
        if not math.isfinite(point[name]):
            raise TrialFailed("nan", f"the trainer measured {name} = {point[name]} at step {step}")
    return point


def _certificate(shape: Shape, last: Mapping[str, float]) -> dict[str, Any]:
    """Return what the trainer certified, as it told it; nothing, where it told nothing."""
    empty = Certificate.empty(shape)
    error, responses = last.get(CERTIFICATE_ERROR, 0.0), int(last.get(RESPONSES, 0))
    return Certificate(error, responses, empty.gamma, empty.causal).to_dict()
