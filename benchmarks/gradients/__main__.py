"""What does each shape do to the policy's gradient: what of it is signal, what bias, what noise?

    python -m pip install 'shapetune[bench,instruction]'
    python -m benchmarks.gradients
    python -m benchmarks.gradients --quick     # in minutes, at a size that proves nothing; printed, not kept

Credit that looks at whole responses to pay their tokens is no baseline: its gradient need not point where the reward's
does. Whether that costs anything depends on how much noise it takes away in return. Both are measured here, on the
same responses for every method of the papers' comparison, at a short lambda and at 1, before training and in its
middle, and held against what was learned at the same settings.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.gradients import tables
from benchmarks.gradients.estimators import SPARSE, TRUTH, Key, group_gradients
from benchmarks.gradients.field import Row, methods_of, rows_of
from benchmarks.gradients.learning import predicted
from benchmarks.gradients.moments import Quality, gram, mixed, qualities
from benchmarks.gradients.stage import Stage
from benchmarks.kept import processes
from benchmarks.papers.field import LAMBDAS
from benchmarks.papers.runs import kept_runs, runs_file
from benchmarks.papers.settings import SETTINGS
from benchmarks.record import Claim, current_commit, write
from pipeline.config import StudyConfig
from pipeline.ppo.trainer import PPOTrainer
from pipeline.task_models import build_assets
from pipeline.tasks.registry import load_task

TASKS = ("sentiment", "instruction")
SEED = 400
# What a claim's name leaves open.
MEANING = {
    "cosine": "of the estimator's expectation and the true gradient; 1 is without bias",
    "alignment": "mean cosine of the gradient of one training batch and the true gradient",
    "predicts_learning_spearman": "over methods and lambdas: alignment before training, and the mean J on the tuning "
    "seeds of the papers' comparison",
}


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


def main() -> None:
    """Measure every task and write ``results/gradients.json``."""
    options, commit = _options(), current_commit()
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sizes = Sizes(16, 32) if options.quick else Sizes(options.groups, options.group)
    claims, texts, details = list[Claim](), list[str](), dict[str, Any]()
    for label in options.tasks:
        config = task_config(label)
        # The models are built here, before the workers look for them.
        build_assets(config, Console(stderr=True))
        batch, when = config.ppo.batch_size, [0] if options.quick else [0, config.ppo.steps // 2]
        stages = [measure(label, steps, sizes, options.workers, batch) for steps in when]
        relation = predicted(stages[0], list(kept_runs(runs_file(label)).values()))
        claims += [*tables.claims(label, sizes.groups, stages), *tables.relation_claims(label, relation)]
        texts.append(tables.text(label, batch, stages, relation))
        details[label] = config.model_dump(mode="json")
    if options.quick:
        print("\n\n".join(texts))
        return
    write("gradients", claims, "\n\n".join(texts), {"configs": details, "meaning": MEANING}, commit)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--groups", type=int, default=32, help="Of responses; the intervals are the jackknife's.")
    parser.add_argument("--group", type=int, default=128, help="Responses of one group.")
    parser.add_argument("--workers", type=int, default=2, help="Groups side by side.")
    parser.add_argument("--quick", action="store_true", help="Everything in minutes, and nothing of it kept.")
    return parser.parse_args()


def task_config(label: str) -> StudyConfig:
    """Return a task's config as the papers' comparison has it."""
    return SETTINGS[label].loaded("ppo.device=cpu", "ppo.save_steps=0")


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
    task = load_task(config.task, str(build_assets(config, Console(stderr=True)) or ""))
    shape = config.base_shape().with_changes(weights={SPARSE: 1.0})
    trainer = PPOTrainer(task, shape, config.ppo, config.sampling, SEED)
    for step in range(steps):
        trainer.step(step)
    return trainer


def judge(products: torch.Tensor, keys: Sequence[Key], sizes: Sizes, batch: int) -> dict[Row, Quality]:
    """Return how good everybody's estimator is.

    Args:
        products: ``E x J x E x J`` inner products of the gradients.
        keys: Whose they are.
        sizes: Of what was measured.
        batch: Responses of a training step.
    """
    everyone = [Row(*TRUTH, {TRUTH[0]: 1.0}), *rows_of([name for name, _ in keys], sizes.lambdas)]
    shares = torch.tensor(
        [[row.shares.get(name, 0.0) * (at == row.gae_lambda) for name, at in keys] for row in everyone]
    )
    rival = next(place for place, row in enumerate(everyone) if row.is_usual)
    found = qualities(mixed(products, shares.double()), 0, rival, sizes.group, batch)
    return dict(zip(everyone, found, strict=True))


if __name__ == "__main__":
    main()
