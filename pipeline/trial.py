"""One trial: an arm trained once per seed. Knows neither Ax nor Ray."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from pipeline.allocator import keep_freed_memory
from pipeline.arm import Arm
from pipeline.config import StudyConfig, parse_config
from pipeline.ppo.checkpoint import read_checkpoint, write_checkpoint
from pipeline.ppo.evaluation import evaluate
from pipeline.ppo.trainer import PPOTrainer
from pipeline.spread import mean_and_error
from pipeline.tasks.base import Task
from pipeline.tasks.sentiment import load_sentiment
from shaping.certificate import Certificate
from shaping.errors import TrialFailed


@dataclass(frozen=True)
class Job:
    """A trial as an executor gets it: plain values only, so that it can travel.

    Attributes:
        index: The trial's number in its source.
        folder: Where its results are written, as a string.
        arm: ``Arm.to_dict()``.
        seeds: One inner run each, in this order.
        config: ``StudyConfig.model_dump(mode="json")``.
        assets: The folder of the task's models.
    """

    index: int
    folder: str
    arm: dict[str, Any]
    seeds: tuple[int, ...]
    config: dict[str, Any]
    assets: str

    @property
    def total_steps(self) -> int:
        """Training steps of the whole trial: what progress is measured in."""
        return int(self.config["ppo"]["steps"]) * len(self.seeds)


@dataclass(frozen=True)
class Progress:
    """One training step of a trial that runs."""

    done_steps: int
    seed: int
    point: dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """What a trial found: means over its seeds, with standard errors where there are at least two.

    Attributes:
        metrics: Name to ``(mean, standard error or None)``.
        certificate: Of all seeds together, as plain values.
        runs: Each seed's result, as plain values.
    """

    metrics: dict[str, tuple[float, float | None]]
    certificate: dict[str, Any]
    runs: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome as plain values."""
        return {"metrics": self.metrics, "certificate": self.certificate, "runs": self.runs}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Outcome:
        """Return the outcome of ``to_dict``'s values."""
        metrics = {name: (pair[0], pair[1]) for name, pair in values["metrics"].items()}
        return cls(metrics, values["certificate"], values["runs"])


EVALUATED = ("objective", "reward", "kl_nats", "gold_reward", "response_tokens", "distinct_bigrams", "entropy_nats")


def run_trial(job: Job) -> Iterator[Progress | Outcome]:
    """Yield progress at every training step, then the outcome.

    A seed that an earlier attempt finished is read from the trial's folder, not trained again; one that it began goes
    on from its last checkpoint.

    Raises:
        TrialFailed: An inner run diverged; the reason is named.
    """
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = parse_config(job.config, "study")
    done, runs = 0, []
    for seed in job.seeds:
        finished = folder / f"seed-{seed}.json"
        if finished.exists():
            runs.append(json.loads(finished.read_text()))
            done += config.ppo.steps
            continue
        curve: list[dict[str, float]] = []
        for result in _run_seed(job, config, seed, curve):
            if isinstance(result, dict):
                write_json(finished, result)
                (folder / f"seed-{seed}.safetensors").unlink(missing_ok=True)
                runs.append(result)
            else:
                yield Progress(done + len(curve), seed, curve[-1])
        done += config.ppo.steps
    outcome = summarize(runs)
    write_json(folder / "result.json", {**outcome.to_dict(), "arm": job.arm, "seeds": list(job.seeds)})
    yield outcome


def _run_seed(
    job: Job, config: StudyConfig, seed: int, curve: list[dict[str, float]]
) -> Iterator[dict[str, Any] | None]:
    """Yield ``None`` after every training step, then the seed's result."""
    keep_freed_memory()
    arm, task = Arm.from_dict(job.arm), _task(job.assets)
    settings = config.ppo if arm.critic is None else config.ppo.model_copy(update={"critic": arm.critic})
    started, cpu = time.perf_counter(), time.process_time()
    trainer = PPOTrainer(task, arm.shape, settings, config.sampling, seed)
    saved = Path(job.folder) / f"seed-{seed}.safetensors"
    identity = _run_identity(job, seed)
    spent = _go_on(trainer, saved, identity, curve)
    for point in trainer.steps(start=len(curve)):
        curve.append(point.to_dict())
        if settings.saves_after(len(curve)):
            used = spent + time.process_time() - cpu
            values = {"run": identity, "curve": curve, "training_cpu_seconds": used}
            write_checkpoint(saved, trainer.checkpoint(**values))
        yield None
    training_cpu = spent + time.process_time() - cpu
    evaluation = evaluate(trainer, config.evaluation)
    if not math.isfinite(evaluation.objective):
        raise TrialFailed("nan", f"J is {evaluation.objective} after training with seed {seed}")
    yield {
        "seed": seed,
        "curve": curve,
        "evaluation": evaluation.to_dict(),
        "certificate": trainer.certificate.to_dict(),
        "credit_tokens": trainer.credit_tokens,
        "training_cpu_seconds": training_cpu,
        "wall_seconds": time.perf_counter() - started,
    }


def _go_on(trainer: PPOTrainer, saved: Path, identity: str, curve: list[dict[str, float]]) -> float:
    """Take over a checkpoint of the same run, if there is one; return the processor seconds spent until it."""
    checkpoint = read_checkpoint(saved)
    if checkpoint is None or checkpoint.values.get("run") != identity:
        return 0.0
    trainer.restore(checkpoint)
    curve.extend(checkpoint.values["curve"])
    return float(checkpoint.values["training_cpu_seconds"])


def _run_identity(job: Job, seed: int) -> str:
    """Return a hash of everything that decides a seed's run: a checkpoint of another run is not gone on with."""
    decides = {name: job.config[name] for name in ("task", "ppo", "sampling")}
    decided = {**decides, "arm": job.arm, "assets": Path(job.assets).name, "seed": seed}
    return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=1)
def _task(folder: str) -> Task:
    """Return the loaded task; a process that runs several trials loads its models once."""
    torch.set_num_threads(1)
    return load_sentiment(Path(folder))


def summarize(runs: list[dict[str, Any]]) -> Outcome:
    """Return means and standard errors over seeds."""
    series = {name: [float(run["evaluation"][name]) for run in runs] for name in EVALUATED}
    series["curve_objective"] = [fmean(point["objective"] for point in run["curve"]) for run in runs]
    series["training_cpu_seconds"] = [float(run["training_cpu_seconds"]) for run in runs]
    certificate = Certificate.from_dict(runs[0]["certificate"])
    for run in runs[1:]:
        certificate = certificate.merged(Certificate.from_dict(run["certificate"]))
    return Outcome(
        {name: mean_and_error(values) for name, values in series.items()},
        certificate.to_dict(),
        runs,
    )


def write_json(path: Path, values: Any) -> None:
    """Write a file so that it is either whole or not there."""
    partial = path.with_suffix(f".partial-{os.getpid()}")
    partial.write_text(json.dumps(values))
    os.replace(partial, path)
