"""The search stage as a source of jobs, told of made-up curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config.schema import StudyConfig
from pipeline.study.folder import StudyFolder
from pipeline.study.search_stage import SearchStage
from pipeline.trials.results import RunResult, TrialResult
from pipeline.trials.types import Ending, Job, Progress
from tests.support.studies import tiny_config

STEPS = 6


def config_of(trials: int = 8, seeds: tuple[int, ...] = (0, 1), **search: Any) -> StudyConfig:
    values = {"trials": trials, "sobol_trials": 2, "seeds": list(seeds), **search}
    return tiny_config(ppo={"steps": STEPS, "batch_size": 4}, search=values)


def stage_of(config: StudyConfig, root: Path) -> SearchStage:
    folder = StudyFolder(root)
    folder.create(config)
    return SearchStage(config, folder, None)


def run_of(seed: int, curve: list[float]) -> dict[str, Any]:
    """A run as training would leave it, with a given curve whose last value is J."""
    evaluation = {"objective": curve[-1], "reward": 1.0, "kl_nats": 1.0, "gold_reward": None, "texts": []}
    evaluation |= {"response_tokens": 6.0, "entropy_nats": 1.0}
    evaluation |= dict.fromkeys(("distinct_unigrams", "distinct_bigrams", "distinct_trigrams"), 0.5)
    points = [{"objective": value, "reward": value, "kl_nats": 0.0} for value in curve]
    certificate = {"largest_error": 1e-7, "responses": 4, "gamma": 1.0, "causal": {"prefix": True}}
    return {
        "seed": seed,
        "curve": points,
        "evaluation": evaluation,
        "certificate": certificate,
        "training_cpu_seconds": 1.0,
    }


def tell(stage: SearchStage, job: Job, curve: list[float]) -> Ending | None:
    """Report a job's steps as long as nobody stops it, then its outcome."""
    seed = job.seeds[0]
    for step, value in enumerate(curve):
        ending = stage.report(job, Progress(step + 1, seed, step, {"objective": value}))
        if stage.should_stop(job):
            stage.stopped(job)
            return ending
    run = RunResult.from_dict(run_of(seed, curve))
    job.files.write_run(run)
    return stage.tell(job, TrialResult.of([run]))


def level(value: float) -> list[float]:
    return [value * (step + 1) / STEPS for step in range(STEPS)]
