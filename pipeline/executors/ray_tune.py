"""Runs trials side by side under Ray Tune. The only file that imports Ray.

Tune asks this file's searcher for trials and the searcher asks the study; Tune keeps no truth of its own, so a
study that goes on after an interruption simply starts a fresh Tuner.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray import tune
from ray.tune.search import Searcher

from pipeline.source import TrialSource
from pipeline.trial import Job, Outcome, Progress, run_trial
from shaping.errors import ShapetuneError, TrialFailed

# A worker reports about this often: often enough for a live display, rarely enough to cost nothing.
REPORT_SECONDS = 1.0
# A killed worker or a lost node is tried again this often, from the last finished seed.
MAX_FAILURES = 2
CONNECT_SECONDS = 5.0


class RayTuneExecutor:
    """Trials side by side, one logical CPU and one thread each.

    Args:
        slots: Trials that run at the same time.
        address: ``local`` starts a Ray of its own for the study; otherwise an existing cluster's address.
    """

    def __init__(self, slots: int, address: str = "local") -> None:
        self._slots, self._address = slots, address

    def run(self, source: TrialSource) -> None:
        """Run every job of the source.

        Raises:
            ShapetuneError: Ray could not be started or reached.
        """
        self._connect()
        try:
            with tempfile.TemporaryDirectory(prefix="shapetune-tune-") as scratch:
                self._tuner(source, scratch).fit()
        finally:
            ray.shutdown()

    def _connect(self) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self._address == "local":
            options |= {"num_cpus": self._slots, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        try:
            if self._address not in ("local", "auto"):
                _check_reachable(self._address)
            ray.init(address=self._address, **options)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise ShapetuneError(
                f"executor.address = {self._address!r}: Ray could not be reached: {str(error).splitlines()[0]}",
                "check the address, or set executor.address to local",
            ) from error

    def _tuner(self, source: TrialSource, scratch: str) -> tune.Tuner:
        logging.getLogger("ray.tune").setLevel(logging.ERROR)
        return tune.Tuner(
            tune.with_resources(_InnerTrial, {"cpu": 1}),
            tune_config=tune.TuneConfig(
                search_alg=_SourceSearcher(source),
                num_samples=-1,
                max_concurrent_trials=self._slots,
                # A worker that stays keeps its imports and its models; starting one takes several seconds.
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                storage_path=scratch,
                name="trials",
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                log_to_file=False,
            ),
        )


class _InnerTrial(tune.Trainable):
    """One trial in a worker process; each step trains for about a second and reports.

    Results travel as JSON text: Tune flattens nested values before it passes them on.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._results: Iterator[Progress | Outcome] = run_trial(_job_of(config))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        until = time.monotonic() + REPORT_SECONDS
        last: Progress | None = None
        try:
            for result in self._results:
                if isinstance(result, Outcome):
                    return {"done": True, "outcome": json.dumps(result.to_dict())}
                last = result
                if time.monotonic() >= until:
                    break
        except TrialFailed as failure:
            return {"done": True, "failure": json.dumps([failure.reason, failure.detail])}
        return {"done": False, "progress": json.dumps(asdict(last) if last else None)}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Keep nothing here: finished seeds are in the trial's own folder."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Read nothing here; see ``save_checkpoint``."""


class _SourceSearcher(Searcher):
    """Lets Tune draw its trials from a study, and takes their results back."""

    def __init__(self, source: TrialSource) -> None:
        super().__init__(metric="done", mode="max")
        self._source = source
        self._jobs: dict[str, Job] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self._source.finished():
            return str(Searcher.FINISHED)
        job = self._source.ask()
        if job is None:
            return str(Searcher.FINISHED) if self._source.finished() else None
        self._jobs[trial_id] = job
        return {"job": asdict(job)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        progress = json.loads(result.get("progress") or "null")
        if progress and trial_id in self._jobs:
            self._source.report(self._jobs[trial_id], Progress(**progress))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        job = self._jobs.pop(trial_id, None)
        if job is None:
            return
        result = result or {}
        if result.get("outcome"):
            self._source.tell(job, Outcome.from_dict(json.loads(result["outcome"])))
        elif result.get("failure"):
            self._source.fail(job, *json.loads(result["failure"]))
        else:
            self._source.fail(job, "worker_died" if error else "no_result", "the worker ended without a result")

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing: the study's database is the only truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Read nothing; see ``save``."""

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_source", "_jobs")}


def _check_reachable(address: str) -> None:
    """Raise at once where nothing listens: Ray itself would try for ever."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


def _job_of(config: dict[str, Any]) -> Job:
    job = dict(config["job"])
    return Job(**{**job, "seeds": tuple(job["seeds"])})
