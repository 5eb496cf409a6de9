"""Where the reward falls and what is learned: shapes beside sparse PPO, as it is usually run and tuned.

    python -m benchmarks.shapes

The quickstart's task and settings, every arm on the same seeds; J is measured on held-out prompts with the unshaped
score. Brackets are 95 % intervals (Student's t) of means, or of differences paired by seed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

from benchmarks.common.configs import measured_config
from benchmarks.common.record import Claim, current_commit, markdown, write
from pipeline.config.schema import StudyConfig
from pipeline.runtime.console import open_console
from pipeline.study.verdict import paired_difference
from pipeline.trials.arm import Arm
from pipeline.trials.results import RunResult, TrialResult
from pipeline.trials.run import run_trial
from pipeline.trials.statistics import first_step_reaching, smoothed_mean_curve
from pipeline.trials.task_models import build_assets
from pipeline.trials.types import Job

TUNED = "sparse, reward-model critic"
RIVALS = ("sparse", TUNED)
MEASURES = ("objective", "reward", "kl_nats", "gold_reward", "distinct_bigrams", "training_cpu_seconds")


def arms(config: StudyConfig) -> list[Arm]:
    """Return what is compared: sparse PPO three times, a control, and two credits at two lambdas."""
    base = config.base_shape()
    dense = [
        Arm(f"{name}, lambda {gae_lambda:g}", base.with_changes(weights={name: 1.0}, gae_lambda=gae_lambda))
        for name in ("prefix", "shapley")
        for gae_lambda in (0.95, 0.8)
    ]
    sparse = [
        Arm("sparse", base),
        Arm("sparse, lambda 1", base.with_changes(gae_lambda=1.0)),
        Arm.with_critic(TUNED, base, "reward_model"),
    ]
    return [*sparse, Arm("uniform", base.with_changes(weights={"uniform": 1.0})), *dense]


def main() -> None:
    """Run every arm on every seed and write ``results/shapes.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[200, 201, 202, 203, 204])
    parser.add_argument("--workers", type=int, default=2)
    options, commit = parser.parse_args(), current_commit()
    torch.set_num_threads(1)
    config = measured_config("quickstart")
    assets = build_assets(config, open_console(stderr=True))
    chosen, plain = arms(config), config.model_dump(mode="json")
    with tempfile.TemporaryDirectory() as folder:
        jobs = [
            Job(number, f"{folder}/{number}", arm.to_dict(), (seed,), plain, str(assets))
            for number, (arm, seed) in enumerate((arm, seed) for arm in chosen for seed in options.seeds)
        ]
        # Worker processes must not inherit torch's threads.
        with ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as pool:
            outcomes = []
            for outcome in pool.map(_run, jobs):
                outcomes.append(outcome)
                print(f"run {len(outcomes)} of {len(jobs)}", file=sys.stderr, flush=True)
    runs = {
        arm.name: [outcome.runs[0] for outcome in outcomes[place * len(options.seeds) :][: len(options.seeds)]]
        for place, arm in enumerate(chosen)
    }
    claims, table = results(runs)
    recorded = {name: [_recorded(run) for run in found] for name, found in runs.items()}
    write("shapes", claims, table, {"seeds": options.seeds, "config": plain, "runs": recorded}, commit)


def results(runs: dict[str, list[RunResult]]) -> tuple[list[Claim], str]:
    """Return claims and table of each arm's runs, which stand in the order of the seeds."""
    objective = {name: [run.objective for run in found] for name, found in runs.items()}
    curves = {name: smoothed_mean_curve([run.objective_curve for run in found]) for name, found in runs.items()}
    claims, rows = [], []
    for name, found in runs.items():
        measured = [Claim.of(measure, values) for measure in MEASURES if (values := _values(found, measure))]
        cells = [f"{each.value:.2f} ± {(each.high - each.low) / 2:.2f}" for each in measured]
        for rival in RIVALS:
            pair = paired_difference(rival, objective[name], objective[rival])
            cells.append("-" if name == rival else f"{pair.mean:+.2f} [{pair.low:+.2f}, {pair.high:+.2f}]")
            if name != rival:
                slug = f"ppo.shapes_gain_{_slug(name)}_over_{_slug(rival)}"
                claims.append(Claim(slug, pair.mean, pair.low, pair.high, pair.seeds))
        steps = first_step_reaching(curves[name], curves[TUNED][-1])
        rows.append([name, *cells, "not reached" if steps is None else steps])
    columns = ("arm", "J", "reward", "KL, nats", "gold", "distinct pairs", "CPU s of a run")
    return claims, markdown(
        [*columns, *(f"J over {rival}" for rival in RIVALS), f"steps to the level of {TUNED}"], rows
    )


def _values(found: list[RunResult], measure: str) -> list[float]:
    values = [run.training_cpu_seconds if measure == "training_cpu_seconds" else run.measured(measure) for run in found]
    return [float(value) for value in values if value is not None]


def _recorded(run: RunResult) -> dict[str, Any]:
    curve = [round(value, 4) for value in run.objective_curve]
    return {"seed": run.seed, "objective": run.objective, "curve": curve}


def _slug(name: str) -> str:
    return name.replace(", ", "_").replace(" ", "_").replace("-", "_").replace(".", "")


def _run(job: Job) -> TrialResult:
    *_, outcome = run_trial(job)
    assert isinstance(outcome, TrialResult)
    return outcome


if __name__ == "__main__":
    main()
