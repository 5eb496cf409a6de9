"""Trains the quickstart's policy at many points of its search space and saves what came out.

    python -m benchmarks.outer.landscape_trials --points 160

Each point is trained on two seeds: one that all points share and one of its own, so that what seeds have in common
can be told from what they have not. Goes on where it stopped. The result, ``data/quickstart_trials.csv``, is what
``benchmarks.outer`` replays; its columns are weights among the methods, their balance with sparse, and lambda.

Points 0 to 64 of the file were trained by commit 1e9f725, the others by 85f50d1; the code changed between: single
runs of the first differ from a repetition. Their residuals do not (mean of the first -0.003 with standard error 0.012,
of the others 0.001 with 0.008).
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from statistics import fmean
from typing import Any

import numpy as np
import torch

from benchmarks.common.cache import DATA
from benchmarks.common.configs import measured_config
from pipeline.config.schema import StudyConfig
from pipeline.runtime.console import open_console
from pipeline.trials.arm import Arm
from pipeline.trials.results import TrialResult
from pipeline.trials.run import run_trial
from pipeline.trials.task_models import build_assets
from pipeline.trials.types import Job

SHARED_SEED, FIRST_OWN_SEED = 0, 1_000
MEASURES = ("objective", "reward", "kl_nats", "gold_reward")


def points(config: StudyConfig, count: int) -> list[dict[str, float]]:
    """Return points all over the space, a third of them on faces and corners of the simplex and of the ranges."""
    chooser, methods = np.random.default_rng(0), config.space.methods
    found = []
    for number in range(count):
        present = np.ones(len(methods), bool)
        if number % 3 == 0:
            present[chooser.choice(len(methods), size=chooser.integers(1, len(methods)), replace=False)] = False
        share = chooser.dirichlet(np.ones(int(present.sum())))
        weights = np.zeros(len(methods))
        weights[present] = share
        ends = chooser.random(2) < 0.15
        balance = 1.0 if ends[0] else chooser.uniform(*config.space.balance)
        gae_lambda = chooser.choice(config.space.gae_lambda) if ends[1] else chooser.uniform(*config.space.gae_lambda)
        named = {f"weight_{name}": float(weight) for name, weight in zip(methods, weights, strict=True)}
        found.append({**named, "balance": float(balance), "gae_lambda": float(gae_lambda)})
    return found


def main() -> None:
    """Train what the file does not hold yet, and add it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=160)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = measured_config("quickstart")
    assets = build_assets(config, open_console(stderr=True))
    plan = [
        (number, point, seed)
        for number, point in enumerate(points(config, options.points))
        for seed in (SHARED_SEED, FIRST_OWN_SEED + number)
    ]
    done = _done()
    left = [each for each in plan if (each[0], each[2]) not in done]
    with tempfile.TemporaryDirectory() as folder:
        jobs = [_job(config, each, f"{folder}/{place}", str(assets)) for place, each in enumerate(left)]
        with ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as pool:
            for each, row in zip(left, pool.map(_run, jobs), strict=True):
                _add({"point": each[0], **each[1], "seed": each[2], **row})
                print(f"{each[0]} of {options.points}: J {row['objective']:.3f}", file=sys.stderr, flush=True)


def _job(config: StudyConfig, planned: tuple[int, dict[str, float], int], folder: str, assets: str) -> Job:
    number, point, seed = planned
    weights = {name: point[f"weight_{name}"] for name in config.space.methods}
    total = sum(weights.values())
    shape = config.base_shape().with_changes(
        weights={name: weight / total for name, weight in weights.items()},
        balance=point["balance"],
        gae_lambda=point["gae_lambda"],
    )
    return Job(number, folder, Arm(f"point {number}", shape).to_dict(), (seed,), config.model_dump(mode="json"), assets)


def _run(job: Job) -> dict[str, Any]:
    *_, outcome = run_trial(job)
    assert isinstance(outcome, TrialResult)
    (run,) = outcome.runs
    curve = run.objective_curve
    measured = {name: round(run.evaluation[name], 5) for name in MEASURES}
    return {**measured, "curve_objective": round(fmean(curve), 5), "curve": " ".join(f"{value:.4f}" for value in curve)}


def _done() -> set[tuple[int, int]]:
    if not DATA.exists():
        return set()
    with DATA.open(newline="") as file:
        return {(int(row["point"]), int(row["seed"])) for row in csv.DictReader(file)}


def _add(row: dict[str, Any]) -> None:
    is_new = not DATA.exists()
    DATA.parent.mkdir(exist_ok=True)
    with DATA.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if is_new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
