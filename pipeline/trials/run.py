"""A trial's runs: an arm trained once per seed. Knows neither Ax nor Ray."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.identity import what_decides_a_run
from pipeline.config.load import parse_config
from pipeline.config.schema import StudyConfig
from pipeline.config.trainer_space import with_settings
from pipeline.runtime.memory import keep_freed_memory
from pipeline.runtime.trackers import RunTrackers
from pipeline.trainers.custom import find_trainer, run_custom
from pipeline.trials.arm import Arm
from pipeline.trials.results import RunResult, TrialResult
from pipeline.trials.types import Job, Progress

if TYPE_CHECKING:
    from pipeline.trainers.base import Task
    from pipeline.trainers.ppo.run import InnerRun
    from pipeline.trainers.ppo.trainer import PPOTrainer


def run_trial(job: Job) -> Iterator[Progress | TrialResult]:
    """Yield progress at every training step, then the outcome of the job's seeds.

    A seed that an earlier attempt finished is read from the trial's folder, not trained again; one that it began goes
    on from its last checkpoint.

    Raises:
        TrialFailed: An inner run diverged; the reason is named.
    """
    files = job.files
    files.folder.mkdir(parents=True, exist_ok=True)
    config = with_settings(parse_config(job.config, "study"), Arm.from_dict(job.arm).trainer)
    runs: list[RunResult] = []
    for place, seed in enumerate(job.seeds):
        before = place * config.ppo.steps
        finished = files.run(seed)
        if finished is not None:
            runs.append(finished)
            for step, point in enumerate(finished.curve):
                yield Progress(before + step + 1, seed, step, point, again=True)
            continue
        with closing(_trackers(job, config, seed)) as trackers:
            for result in _run_seed(job, config, seed):
                if isinstance(result, Progress):
                    if not result.again:
                        trackers.log("train", result.point, result.step)
                    yield replace(result, done_steps=before + result.step + 1)
                else:
                    files.write_run(result)
                    _remove_checkpoints(config, _checkpoint(job, config, seed))
                    runs.append(result)
                    for found in result.held_out:
                        trackers.log("held_out", found, int(found["done_steps"]))
                    trackers.log("final", result.evaluation, len(result.curve))
    yield TrialResult.of(runs)


def _trackers(job: Job, config: StudyConfig, seed: int) -> RunTrackers:
    """Return what the curve of a seed's run also goes to."""
    folder, arm = job.files.folder, Arm.from_dict(job.arm)
    settings = {"arm": arm.name, "seed": seed, "shape": arm.shape.to_dict(), "trainer": arm.trainer}
    project = config.tracking.project or config.name
    place = folder / "tracking" / f"seed-{seed}"
    return RunTrackers(config.tracking.to, project, f"{config.name}/{folder.name}/seed-{seed}", place, settings)


def _run_seed(job: Job, config: StudyConfig, seed: int) -> Iterator[Progress | RunResult]:
    """Yield every training step, then the seed's result."""
    if config.trainer is None:
        yield from _run_ppo(job, config, seed)
        return
    arm, trainer = Arm.from_dict(job.arm), find_trainer(config.trainer.function)
    plain = config.model_dump(mode="json") if arm.trainer else job.config
    for told in run_custom(trainer, arm.name, arm.shape, seed, Path(job.folder), plain):
        if isinstance(told, dict):
            yield RunResult.from_dict(told)
        else:
            step, point, again = told
            yield Progress(step + 1, seed, step, point, again)


def _checkpoint(job: Job, config: StudyConfig, seed: int) -> Path | str:
    """Return where a seed's run keeps its checkpoint."""
    own, address = job.files.checkpoint(seed), config.executor.checkpoints
    if address is None:
        return own
    # A trial's folder and a confirmation's may have the same name.
    return "/".join((address.rstrip("/"), config.name, *own.parts[-3:]))


def _remove_checkpoints(config: StudyConfig, checkpoint: Path | str) -> None:
    if config.trainer is None:
        from pipeline.trainers.ppo.checkpoint import remove_checkpoints

        remove_checkpoints(checkpoint)


def _run_ppo(job: Job, config: StudyConfig, seed: int) -> Iterator[Progress | RunResult]:
    # With torch and transformers, which take seconds to import; a trainer of one's own may need neither.
    from pipeline.runtime.environment import where
    from pipeline.trainers.ppo.run import InnerRun
    from pipeline.trainers.ppo.trainer import PPOTrainer

    keep_freed_memory()
    arm, task = Arm.from_dict(job.arm), _task(config, job.assets)
    started = time.perf_counter()
    saved = _checkpoint(job, config, seed)
    portions = job.files.portions_file
    trainer = PPOTrainer(task, arm.shape, config.ppo, config.sampling, seed, config.kl_price, portions)
    with closing(trainer):
        run = InnerRun(trainer, config.evaluation, saved, _run_identity(job, seed), job.judges_untrained)
        for step, before in enumerate(list(run.curve)):
            yield Progress(step + 1, seed, step, before, again=True)
        for point in run.steps():
            step = len(run.curve) - 1
            yield Progress(step + 1, seed, step, point.to_dict())
        result = ppo_result(trainer, run, seed, started)
    yield replace(result, machine=where(trainer.processes.device, trainer.precision))


def ppo_result(trainer: PPOTrainer, run: InnerRun, seed: int, started: float) -> RunResult:
    """Return what a run of the built-in PPO that has made all its steps came to; of the machine it says nothing.

    Args:
        trainer: It trained.
        run: It made the steps.
        seed: Of everything random.
        started: When the attempt began, as ``time.perf_counter`` says it.
    """
    return RunResult(
        seed=seed,
        curve=tuple(run.curve),
        evaluation=run.result().to_dict(),
        certificate=trainer.certificate,
        held_out=tuple(run.held_out),
        untrained=run.untrained,
        credit_tokens=trainer.credit_tokens,
        credit_coalitions=trainer.credit_coalitions,
        training_cpu_seconds=run.training_cpu_seconds,
        wall_seconds=time.perf_counter() - started,
    )


def _run_identity(job: Job, seed: int) -> str:
    """Return a hash of everything that decides a seed's run: a checkpoint of another run is not resumed."""
    decided = {**what_decides_a_run(job.config), "arm": job.arm, "assets": Path(job.assets).name, "seed": seed}
    return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()


def _task(config: StudyConfig, assets: str) -> Task:
    """Return the loaded task; a process that runs several trials loads its models once."""
    import torch

    from pipeline.tasks.registry import load_task

    torch.set_num_threads(config.executor.cpus)
    return load_task(config.task, assets)
