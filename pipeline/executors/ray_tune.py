"""Runs trials side by side under Ray Tune.

Tune asks this file's searcher for trials and the searcher asks the study; Tune keeps no truth of its own, so a
study that is resumed after an interruption simply starts a fresh Tuner.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# A signal ends the study, which says how to resume; Tune would save a state that nobody reads.
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
# A trial sees the GPUs it was given and no others: none, where it was given none.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")

from pipeline.executors.ray_address import check_address, use_given_token
from pipeline.executors.ray_private import ON_LOOPBACK, TOKEN_REMEDY, in_folder

use_given_token()

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from pipeline.executors.ray_failures import lost_attempt
from pipeline.executors.ray_folder import session_folder
from pipeline.runtime.signals import handlers_restored
from pipeline.trials.failures import WORKER_DIED, Failure, failure_of, halted, note_failure
from pipeline.trials.results import TrialResult
from pipeline.trials.run import run_trial
from pipeline.trials.types import Job, Progress, TrialSource
from pipeline.trials.watchdog import WorkerWatch
from shaping.errors import ShapetuneError

# A worker reports about this often: often enough for a live display, rarely enough to cost nothing.
REPORT_SECONDS = 1.0
# What Ray raises where it cannot be reached or started.
UNREACHABLE = (ConnectionError, RuntimeError, ValueError, OSError)


class RayTuneExecutor:
    """Trials side by side, each with the processors and GPUs that it was promised.

    Args:
        slots: Trials that run at the same time.
        address: ``local`` starts a Ray of its own for the study; otherwise an existing cluster's address.
        cpus: Cores of each trial.
        gpus: GPUs of each trial; a fraction shares one. ``None`` shares what a Ray of its own finds among the slots.
        machine_gpus: GPUs that a Ray of its own counts; ``None`` lets it look.
        retries: Further attempts of a job whose attempt failed, each in a fresh process and from its last checkpoint.
        stall_minutes: Silence after which a worker counts as hung.
    """

    def __init__(
        self,
        slots: int,
        address: str = "local",
        cpus: int = 1,
        gpus: float | None = 0.0,
        machine_gpus: int | None = None,
        retries: int = 3,
        stall_minutes: float = 60.0,
    ) -> None:
        self._slots, self._address = slots, address
        self._cpus, self._gpus, self._machine_gpus = cpus, gpus, machine_gpus
        self._retries, self._stall_minutes = retries, stall_minutes

    def run(self, source: TrialSource) -> None:
        """Run every job of the source.

        Raises:
            ShapetuneError: Ray could not be started or reached, wants another token, has not what a trial was
                promised, or nothing can be written any more.
        """
        with session_folder(os.environ) if self._address == "local" else nullcontext() as folder:
            with handlers_restored():
                self._connect(folder)
            try:
                resources = self._resources()
                with tempfile.TemporaryDirectory(prefix="shapetune-tune-") as scratch:
                    self._tuner(source, scratch, resources).fit()
            except _Ended as ended:
                raise ended.error from None
            finally:
                ray.shutdown()

    def _connect(self, folder: Path | None) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self._address == "local":
            _demand_a_token()
            options |= {"num_cpus": self._slots * self._cpus, "num_gpus": self._machine_gpus}
            options |= {"include_dashboard": False, **ON_LOOPBACK, **in_folder(folder)}
        elif self._address != "auto":
            check_address(self._address, "executor.address =")
        try:
            ray.init(address=self._address, **options)
        except ray.exceptions.AuthenticationError as error:
            raise ShapetuneError(
                f"executor.address = {self._address!r}: Ray refuses without a token", TOKEN_REMEDY
            ) from error
        except Exception as error:
            # A node that does not come up in time is a plain Exception.
            if type(error) is not Exception and not isinstance(error, UNREACHABLE):
                raise
            said = (str(error).splitlines() or [type(error).__name__])[0]
            if self._address == "local":
                raise ShapetuneError(
                    f"executor.name = ray: Ray could not be started: {said}",
                    "see whether TMPDIR is a folder that can be written, or set executor.name to local",
                ) from error
            raise ShapetuneError(
                f"executor.address = {self._address!r}: Ray could not be reached: {said}",
                "check the address, or set executor.address to local",
            ) from error

    def _resources(self) -> dict[str, float]:
        """Return what Ray reserves for each trial.

        Raises:
            ShapetuneError: No node has as much: Tune would wait for it for ever.
        """
        wanted: dict[str, float] = {"cpu": self._cpus}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = self._gpus
        if gpus is None:
            gpus = min(1.0, sum(node.get("GPU", 0.0) for node in nodes) / self._slots)
        if gpus > 0:
            wanted["gpu"] = gpus
        for name, amount in wanted.items():
            most = max(node.get(name.upper(), 0.0) for node in nodes)
            if amount > most:
                raise ShapetuneError(
                    f"executor.{name}s = {amount:g}, but no node of Ray has more than {most:g}", "ask for less"
                )
        return wanted

    def _tuner(self, source: TrialSource, scratch: str, resources: dict[str, float]) -> tune.Tuner:
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        searcher = _SourceSearcher(source, self._retries, self._stall_minutes)
        return tune.Tuner(
            tune.with_resources(_InnerTrial, resources),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=_SourceScheduler(searcher),
                num_samples=-1,
                max_concurrent_trials=self._slots,
                # A worker that stays keeps its imports and its models; starting one takes several seconds.
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                storage_path=scratch,
                name="trials",
                verbose=0,
                # The searcher hands a failed job out again: Tune gives a trial up that fails before it runs again.
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                log_to_file=False,
            ),
        )


class _InnerTrial(tune.Trainable):
    """One trial in a worker process; each step trains for about a second and reports.

    Results travel as JSON text: Tune flattens nested values before it passes them on.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._job = _job_of(config)
        self._watch = WorkerWatch(config["stall_minutes"], self._job.files.stall_file(self._job.seeds))
        self._results: Iterator[Progress | TrialResult] = run_trial(self._job)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        until = time.monotonic() + REPORT_SECONDS
        steps: list[dict[str, Any]] = []
        told: dict[str, Any] = {"done": True, "node": ray.get_runtime_context().get_node_id()}
        try:
            self._watch.progressed()
            for result in self._results:
                self._watch.progressed()
                if isinstance(result, TrialResult):
                    told["outcome"] = json.dumps(result.to_dict())
                    break
                steps.append(asdict(result))
                if time.monotonic() >= until:
                    told["done"] = False
                    break
        except Exception as error:
            told |= self._failed(error)
        finally:
            self._watch.rests()
        return {**told, "progress": json.dumps(steps)}

    def _failed(self, error: Exception) -> dict[str, str]:
        """Return what is told of a final failure; others are raised, so that no process that failed is used again."""
        failure = failure_of(error)
        if failure.halts:
            return {"halted": json.dumps(asdict(failure))}
        note_failure(self._job, failure)
        if failure.may_be_retried:
            raise error
        return {"failure": json.dumps([failure.reason, failure.detail])}

    def cleanup(self) -> None:
        self._results = iter(())
        self._watch.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Keep nothing here: finished seeds are in the trial's own folder."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Read nothing here; see ``save_checkpoint``."""


class _Ended(BaseException):
    """Carries the study's own error through Tune, which would take an ``Exception`` for a trial's."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _SourceSearcher(Searcher):
    """Lets Tune draw its trials from a study, and takes their results back."""

    def __init__(self, source: TrialSource, retries: int, stall_minutes: float) -> None:
        super().__init__(metric="done", mode="max")
        self._source, self._retries, self._stall_minutes = source, retries, stall_minutes
        self._jobs: dict[str, Job] = {}
        self._failures: dict[str, Failure] = {}
        self._failed_attempts: Counter[tuple[str, tuple[int, ...]]] = Counter()
        self._again: list[Job] = []

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        with _errors_carried():
            if self._source.finished():
                return str(Searcher.FINISHED)
            job = self._again.pop(0) if self._again else self._source.ask()
            if job is None:
                return str(Searcher.FINISHED) if self._source.finished() else None
        self._jobs[trial_id] = job
        return {"job": asdict(job), "stall_minutes": self._stall_minutes}

    def report(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Pass training steps on; return whether the trial is to stop."""
        job = self._jobs.get(trial_id)
        if job is None:
            return False
        with _errors_carried():
            if result.get("halted"):
                raise halted(Failure(**json.loads(result["halted"])))
            steps = [Progress(**step) for step in json.loads(result.get("progress") or "[]")]
            # Every step is passed on, also those after one that asks for an end.
            stops = [self._source.report(job, step) for step in steps]
            if any(stops) and not result["done"]:
                del self._jobs[trial_id]
                self._source.stopped(job)
                return True
        return False

    def failed(self, trial: Any) -> None:
        """Take note of why an attempt ended without a result, of which Tune tells the searcher nothing."""
        job = self._jobs.get(trial.trial_id)
        if job is not None:
            self._failures[trial.trial_id] = lost_attempt(trial, job, self._stall_minutes)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id not in self._jobs:
            return
        result = result or {}
        # A trial's last steps come with its end, of which the scheduler is not told.
        self.report(trial_id, {**result, "done": True})
        job = self._jobs.pop(trial_id)
        with _errors_carried():
            if result.get("outcome"):
                self._source.tell(job, TrialResult.from_dict(json.loads(result["outcome"])))
            elif result.get("failure"):
                self._source.fail(job, *json.loads(result["failure"]))
            else:
                died = Failure(WORKER_DIED, "the worker ended without a result")
                self._failed(job, self._failures.pop(trial_id, died))

    def _failed(self, job: Job, failure: Failure) -> None:
        """Hand a job out again, as often as it may be."""
        attempts = (job.folder, job.seeds)
        self._failed_attempts[attempts] += 1
        if failure.may_be_retried and self._failed_attempts[attempts] <= self._retries:
            self._again.append(job)
            self._source.retried(job, failure.reason, failure.detail)
        else:
            self._source.fail(job, failure.reason, failure.detail)

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing: the study's database is the only truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Read nothing; see ``save``."""

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_source", "_jobs")}


class _SourceScheduler(FIFOScheduler):
    """Stops the trials that the study gives up. Tune asks the scheduler first, and nobody else of what it stops."""

    def __init__(self, searcher: _SourceSearcher) -> None:
        super().__init__()
        self._searcher = searcher

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        stop = self._searcher.report(trial.trial_id, result)
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        # Tune tells the searcher only that there was an error.
        self._searcher.failed(trial)


@contextmanager
def _errors_carried() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _Ended(error) from error


def _demand_a_token() -> None:
    """Give a Ray of the study's own a token that stands on no disk; what the user has set is left alone.

    Ray demands tokens of whoever speaks to a cluster of its own making: some of its ports are open on all interfaces.
    """
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _job_of(config: dict[str, Any]) -> Job:
    job = dict(config["job"])
    return Job(**{**job, "seeds": tuple(job["seeds"])})
