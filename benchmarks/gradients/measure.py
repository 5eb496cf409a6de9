"""One point of training: gradients of groups of responses, worked out side by side, and how good they are."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common.cache import processes
from benchmarks.gradients.estimators import SPARSE, TRUTH, Key, group_gradients
from benchmarks.gradients.field import Row, methods_of, rows_of
from benchmarks.gradients.moments import Quality, gram, mixed, qualities
from benchmarks.gradients.stage import Stage
from benchmarks.papers.field import LAMBDAS
from benchmarks.papers.settings import SETTINGS
from pipeline.config.schema import StudyConfig
from pipeline.runtime.console import open_console
from pipeline.tasks.registry import load_task
from pipeline.trainers.ppo.trainer import PPOTrainer
from pipeline.trials.task_models import build_assets

SEED = 400
# Tasks asked again with something changed: hiding units from attention leaves all other tokens where they are, where
# deleting them makes of a response the shuffled and cut texts that the summaries' reward model was taught to reject.
VARIANTS = {"summarization-hidden": ("summarization", ("shape.absent=attention",))}


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        groups: Of responses; the jackknife leaves one out.
        group: Responses of one.
        lambdas: Weights of rewards to come.
    """

    groups: int
    group: int
    lambdas: tuple[float, ...] = (LAMBDAS[0], LAMBDAS[-1])


def task_config(label: str) -> StudyConfig:
    """Return a task's config as the papers' comparison has it, or that of one of its variants."""
    task, changes = VARIANTS.get(label, (label, ()))
    return SETTINGS[task].loaded("ppo.device=cpu", "ppo.save_steps=0", *changes)


def measure(label: str, steps: int, sizes: Sizes, workers: int, batch: int) -> Stage:
    """Return how good every estimator is, in batches of ``batch``, once sparse PPO has trained for ``steps`` steps."""
    started, gradients = time.perf_counter(), torch.empty(0)
    with processes(workers) as pool:
        places = range(sizes.groups)
        for place, (keys, found) in enumerate(pool.map(partial(one_group, label, steps, sizes), places)):
            if not place:
                # A thousand gradients of a million numbers each: they are not held twice.
                gradients = torch.empty(len(keys), sizes.groups, found.shape[1])
            gradients[:, place] = torch.from_numpy(found)
            print(f"{label}, after {steps} steps: group {place + 1} of {sizes.groups}", file=sys.stderr, flush=True)
    judged = judge(gram(gradients), keys, sizes, batch)
    return Stage(steps, judged, sizes.groups * sizes.group, time.perf_counter() - started)


def one_group(label: str, steps: int, sizes: Sizes, place: int) -> tuple[list[Key], NDArray[np.float32]]:
    """Return a group's gradients, ``E x P``, and whose they are."""
    trainer = trained(label, steps)
    field = methods_of(trainer.shape, trainer.task.reward_model)
    found = group_gradients(trainer, field, sizes.lambdas, sizes.group, SEED + place)
    return list(found), torch.stack(list(found.values())).numpy()


@lru_cache(maxsize=1)
def trained(label: str, steps: int) -> PPOTrainer:
    """Return sparse PPO after ``steps`` steps: the same in every process."""
    config = task_config(label)
    task = load_task(config.task, str(build_assets(config, open_console(stderr=True)) or ""))
    shape = config.base_shape().with_changes(weights={SPARSE: 1.0})
    trainer = PPOTrainer(task, shape, config.ppo, config.sampling, SEED)
    for step in range(steps):
        trainer.step(step)
    return trainer


def judge(products: torch.Tensor, keys: Sequence[Key], sizes: Sizes, batch: int) -> dict[Row, Quality]:
    """Return how good every method's estimator is.

    Args:
        products: ``E x J x E x J`` inner products of the gradients.
        keys: Whose they are.
        sizes: Of what was measured.
        batch: Responses of a training step.
    """
    rows = [Row(*TRUTH, {TRUTH[0]: 1.0}), *rows_of([name for name, _ in keys], sizes.lambdas)]
    shares = torch.tensor([[row.shares.get(name, 0.0) * (at == row.gae_lambda) for name, at in keys] for row in rows])
    rival = next(place for place, row in enumerate(rows) if row.is_usual)
    found = qualities(mixed(products, shares.double()), 0, rival, sizes.group, batch)
    return dict(zip(rows, found, strict=True))
