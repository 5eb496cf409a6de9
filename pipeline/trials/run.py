"""A trial's runs: an arm trained once per seed. Knows neither Ax nor Ray."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pipeline.config.load import parse_config
from pipeline.config.schema import StudyConfig
from pipeline.runtime.files import read_json, write_json
from pipeline.runtime.memory import keep_freed_memory
from pipeline.trainers.custom import find_trainer, run_own
from pipeline.trials.arm import Arm
from pipeline.trials.statistics import mean_and_error
from pipeline.trials.types import Job, Outcome, Progress
from shaping.certificate import Certificate

if TYPE_CHECKING:
    from pipeline.trainers.base import Task


DISTINCT = ("distinct_unigrams", "distinct_bigrams", "distinct_trigrams")
EVALUATED = ("objective", "reward", "kl_nats", "response_tokens", "entropy_nats", *DISTINCT, "gold_reward")


def run_trial(job: Job) -> Iterator[Progress | Outcome]:
    """Yield progress at every training step, then the outcome of the job's seeds.

    A seed that an earlier attempt finished is read from the trial's folder, not trained again; one that it began goes
    on from its last checkpoint.

    Raises:
        TrialFailed: An inner run diverged; the reason is named.
    """
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = parse_config(job.config, "study")
    runs: list[dict[str, Any]] = []
    for place, seed in enumerate(job.seeds):
        before = place * config.ppo.steps
        finished = seed_file(folder, seed)
        if finished.exists():
            runs.append(read_json(finished))
            for step, point in enumerate(runs[-1]["curve"]):
                yield Progress(before + step + 1, seed, step, point, again=True)
            continue
        for result in _run_seed(job, config, seed):
            if isinstance(result, Progress):
                yield replace(result, done_steps=before + result.step + 1)
            else:
                write_json(finished, result)
                _remove_checkpoints(config, folder, seed)
                runs.append(result)
    yield summarize(runs)


def seed_file(folder: Path, seed: int) -> Path:
    """Return where a finished seed's run is kept."""
    return folder / f"seed-{seed}.json"


def _run_seed(job: Job, config: StudyConfig, seed: int) -> Iterator[Progress | dict[str, Any]]:
    """Yield every training step, then the seed's result."""
    if config.trainer is None:
        yield from _run_ppo(job, config, seed)
        return
    arm, trainer = Arm.from_dict(job.arm), find_trainer(config.trainer.function)
    for told in run_own(trainer, arm.name, arm.shape, seed, Path(job.folder), job.config):
        if isinstance(told, dict):
            yield told
        else:
            step, point, again = told
            yield Progress(step + 1, seed, step, point, again)


def _remove_checkpoints(config: StudyConfig, folder: Path, seed: int) -> None:
    if config.trainer is None:
        from pipeline.trainers.ppo.checkpoint import remove_checkpoints

        remove_checkpoints(folder / f"seed-{seed}.safetensors")


def _run_ppo(job: Job, config: StudyConfig, seed: int) -> Iterator[Progress | dict[str, Any]]:
    # With torch and transformers, which take seconds to import; a trainer of one's own may need neither.
    from pipeline.runtime.environment import where
    from pipeline.trainers.ppo.run import InnerRun
    from pipeline.trainers.ppo.trainer import PPOTrainer

    keep_freed_memory()
    arm, task = Arm.from_dict(job.arm), _task(config, job.assets)
    settings = config.ppo if arm.critic is None else config.ppo.model_copy(update={"critic": arm.critic})
    started = time.perf_counter()
    trainer = PPOTrainer(task, arm.shape, settings, config.sampling, seed)
    saved = Path(job.folder) / f"seed-{seed}.safetensors"
    run = InnerRun(trainer, config.evaluation, saved, _run_identity(job, seed), job.judges_untrained)
    for step, before in enumerate(list(run.curve)):
        yield Progress(step + 1, seed, step, before, again=True)
    for point in run.steps():
        step = len(run.curve) - 1
        yield Progress(step + 1, seed, step, point.to_dict())
    yield {
        "seed": seed,
        "curve": run.curve,
        "held_out": run.held_out,
        "untrained": run.untrained,
        "evaluation": run.result().to_dict(),
        "certificate": trainer.certificate.to_dict(),
        "credit_tokens": trainer.credit_tokens,
        "credit_coalitions": trainer.credit_coalitions,
        "training_cpu_seconds": run.training_cpu_seconds,
        "wall_seconds": time.perf_counter() - started,
        "machine": where(trainer.processes.device, trainer.precision),
    }


def _run_identity(job: Job, seed: int) -> str:
    """Return a hash of everything that decides a seed's run: a checkpoint of another run is not gone on with."""
    decides = {name: job.config[name] for name in ("task", "ppo", "sampling", "evaluation")}
    decided = {**decides, "arm": job.arm, "assets": Path(job.assets).name, "seed": seed}
    return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()


def _task(config: StudyConfig, assets: str) -> Task:
    """Return the loaded task; a process that runs several trials loads its models once."""
    import torch

    from pipeline.tasks.registry import load_task

    torch.set_num_threads(config.executor.cpus)
    return load_task(config.task, assets)


def searched_value(run: Mapping[str, Any], objective: str) -> float:
    """Return what the search compares of a finished seed: the final J, or the mean of J along its curve.

    Args:
        run: A seed's result.
        objective: ``search.objective``; gains are counted from the final J.
    """
    if objective == "curve":
        return fmean(point["objective"] for point in run["curve"])
    return float(run["evaluation"]["objective"])


def summarize(runs: list[dict[str, Any]]) -> Outcome:
    """Return means and standard errors over seeds."""
    # A task may have no gold model, and a trainer of one's own measures what it measures.
    names = [name for name in EVALUATED if all(run["evaluation"].get(name) is not None for run in runs)]
    series = {name: [float(run["evaluation"][name]) for run in runs] for name in names}
    series["curve_objective"] = [searched_value(run, "curve") for run in runs]
    series["training_cpu_seconds"] = [float(run["training_cpu_seconds"]) for run in runs]
    metrics = {name: mean_and_error(values) for name, values in series.items()}
    return Outcome(metrics, certificate_of(runs).to_dict(), runs)


def certificate_of(runs: Sequence[Mapping[str, Any]]) -> Certificate:
    """Return one certificate for all runs of an arm, of which there is at least one."""
    return reduce(Certificate.merged, (Certificate.from_dict(run["certificate"]) for run in runs))
