"""Launching a study as a job of a Ray cluster: the driver runs there, and nobody's laptop has to stay open."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shlex
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.executors.ray_address import use_given_token
from pipeline.executors.ray_private import CONNECT_SECONDS, TOKEN_REMEDY
from shaping.errors import ConfigError, ShapetuneError

# What a config's folder holds that no job needs; those that begin with a slash at its top alone.
LEFT_OUT = (".git", ".venv", "/venv", "/studies", "/build", "/dist", "__pycache__", "*.safetensors", "*.gguf")
SUCCEEDED, STOPPED = "SUCCEEDED", "STOPPED"
ENDED = (SUCCEEDED, "FAILED", STOPPED)
POLL_SECONDS = 2.0
# What a cluster answers whose dashboard runs before the agent that starts jobs.
NOT_YET = "No available agent"
# How long a cluster that does not answer is asked again, for a job to be taken or about one that is followed.
PATIENCE_SECONDS = 120.0
# What a shell says of a process that SIGTERM ended.
TERMINATED = 143


@dataclass(frozen=True)
class Submission:
    """A study to be launched on a cluster.

    Attributes:
        config: The config's file; its folder travels with it, for what the config names beside it.
        name: The study's.
        changes: ``key=value`` overrides.
        studies: The folder that studies are kept in, absolute, on storage that all nodes share.
        requirements: A pip requirements file for nodes whose image lacks something; ``None`` where it lacks nothing.
        environment: Names of variables of this process that the job needs, such as PGPASSWORD.
    """

    config: Path
    name: str
    changes: tuple[str, ...]
    studies: Path
    requirements: Path | None = None
    environment: tuple[str, ...] = ()

    def entrypoint(self) -> str:
        """Return the command that the cluster's head runs, in a shell."""
        command = ["python", "-m", "pipeline.submitted", self.name, f"./{self.config.name}", str(self.studies)]
        return shlex.join([*command, *self.changes, "executor.name=ray", "executor.address=auto"])

    def runtime_env(self, variables: dict[str, str]) -> dict[str, Any]:
        """Return what travels: the config's folder, requirements, and the named ones of ``variables``.

        Raises:
            ConfigError: A named variable is not set.
        """
        missing = [name for name in self.environment if name not in variables]
        if missing:
            raise ConfigError(f"--env {missing[0]}: this variable is not set", f"export {missing[0]}=... first")
        found: dict[str, Any] = {"working_dir": str(self.config.parent), "excludes": self._left_out()}
        if self.requirements is not None:
            found["pip"] = str(self.requirements)
        if self.environment:
            found["env_vars"] = {name: variables[name] for name in self.environment}
        return found

    def _left_out(self) -> list[str]:
        """Return what stays here, as in a .gitignore: also studies that were launched into a folder of another name."""
        folder = self.config.parent
        studies = {path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/study.yaml")}
        return [*LEFT_OUT, *sorted(f"/{_literal(study.relative_to(folder).as_posix())}" for study in studies)]


def _literal(path: str) -> str:
    return "".join(f"\\{sign}" if sign in "*?[]\\!# " else sign for sign in path)


class RayJobs:
    """A cluster's jobs.

    Args:
        address: Of its dashboard, such as ``http://head:8265``.

    Raises:
        ConfigError: The extra is not installed, nothing answers there, or it wants another token.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        _check_dashboard(address)
        use_given_token()
        try:
            from ray.exceptions import AuthenticationError
            from ray.job_submission import JobSubmissionClient
        except ImportError as error:
            raise _extra_missing() from error
        if importlib.util.find_spec("aiohttp") is None:
            raise _extra_missing()
        try:
            self._client = JobSubmissionClient(address)
        except AuthenticationError as error:
            raise ConfigError(
                f"--address {address}: the cluster refuses: {_first_line(error)}", TOKEN_REMEDY
            ) from error
        except (KeyError, OSError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"--address {address}: no Ray cluster takes jobs there: {_first_line(error)}",
                "give the dashboard's address, http://HEAD:8265",
            ) from error

    def submit(self, submission: Submission, variables: dict[str, str]) -> str:
        """Return the name of the job that launches the study.

        Raises:
            ConfigError: A variable is not set.
            ShapetuneError: The cluster does not take the job.
        """
        travels = submission.runtime_env(variables)
        # What a config names must travel also where git does not keep it.
        os.environ.setdefault("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "1")
        try:
            return self._once_taken(entrypoint=submission.entrypoint(), runtime_env=travels)
        except (OSError, RuntimeError, ValueError) as error:
            raise ShapetuneError(
                f"the cluster did not take the job: {_first_line(error)}", _remedy(error, submission)
            ) from error

    def _once_taken(self, **job: Any) -> str:
        """Return the job's name once the cluster takes it: one that just began listens before it takes jobs."""
        # A name of ours: asking again after an answer that was lost makes no second job.
        name = f"shapetune_{secrets.token_hex(8)}"
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return str(self._client.submit_job(submission_id=name, **job))
            except RuntimeError as error:
                if f"{name} already exists" in str(error):
                    return name
                if NOT_YET not in str(error) or time.monotonic() > until:
                    raise
            time.sleep(POLL_SECONDS)

    def follow(self, job: str) -> Iterator[str]:
        """Yield what the job prints, as it prints it, until it ends.

        Raises:
            ShapetuneError: The cluster does not answer any more.
        """
        told, heard = 0, time.monotonic()
        while True:
            try:
                ended = self._status(job) in ENDED
                log = self._client.get_job_logs(job)
                heard = time.monotonic()
            except (OSError, RuntimeError) as error:
                if time.monotonic() - heard > PATIENCE_SECONDS:
                    raise ShapetuneError(
                        f"the cluster does not answer any more: {_first_line(error)}",
                        f"the job may run on; once it answers: ray job logs {job} --address {self._address} --follow",
                    ) from error
                time.sleep(POLL_SECONDS)
                continue
            if len(log) > told:
                yield log[told:]
                told = len(log)
            if ended:
                return
            time.sleep(POLL_SECONDS)

    def exit_code(self, job: str) -> int:
        """Return how a job that ended ended: as its command did, or 1 where that never began or its node was lost."""
        status = self._status(job)
        if status == SUCCEEDED:
            return 0
        code = self._client.get_job_info(job).driver_exit_code
        return TERMINATED if status == STOPPED else int(code or 1)

    def _status(self, job: str) -> str:
        return str(self._client.get_job_status(job).value)


def _check_dashboard(address: str) -> None:
    """Raise at once where nothing listens."""
    try:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"--address {address} is no dashboard's address", "give one like http://HEAD:8265")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname, port), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--address {address}: nothing answers there: {error}",
            "start the head with a dashboard, or forward its port: ssh -L 8265:127.0.0.1:8265 HEAD",
        ) from error


def _remedy(error: Exception, submission: Submission) -> str:
    if NOT_YET in str(error):
        return "its head runs no job agent: see its dashboard and the logs of ray start"
    return (
        f"what lies beside the config travels with it: keep large files out of {submission.config.parent}, "
        "or name them in a .rayignore there"
    )


def _extra_missing() -> ConfigError:
    return ConfigError("shapetune submit needs Ray's job client", "pip install 'shapetune[cluster]'")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:500] if str(error) else type(error).__name__
