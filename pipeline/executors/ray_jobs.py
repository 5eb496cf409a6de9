"""Launching a study as a job of a Ray cluster: the driver runs there, and nobody's laptop has to stay open."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shaping.errors import ConfigError, ShapetuneError

# What a folder holds that no job needs.
LEFT_OUT = (".git", ".venv", "venv", "studies", "build", "dist", "__pycache__", "*.safetensors", "*.gguf")
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
POLL_SECONDS = 2.0


@dataclass(frozen=True)
class Submission:
    """A study to be launched on a cluster.

    Attributes:
        config: The config's file; its folder travels with it, for what the config names beside it.
        changes: ``key=value`` overrides.
        studies: The folder that studies are kept in, absolute, on storage that all nodes share.
        requirements: A pip requirements file for nodes whose image lacks something; ``None`` where it lacks nothing.
        environment: Names of variables of this process that the job needs, such as PGPASSWORD.
    """

    config: Path
    changes: tuple[str, ...]
    studies: Path
    requirements: Path | None = None
    environment: tuple[str, ...] = ()

    def entrypoint(self) -> str:
        """Return the command that the cluster's head runs."""
        command = ["python", "-m", "pipeline.cli", "launch", f"./{self.config.name}", "--studies", str(self.studies)]
        for change in (*self.changes, "executor.name=ray", "executor.address=auto"):
            command += ["--set", change]
        return shlex.join(command)

    def runtime_env(self, variables: dict[str, str]) -> dict[str, Any]:
        """Return what travels: the config's folder, requirements, and the named ones of ``variables``.

        Raises:
            ConfigError: A named variable is not set.
        """
        missing = [name for name in self.environment if name not in variables]
        if missing:
            raise ConfigError(f"--env {missing[0]}: this variable is not set", f"export {missing[0]}=... first")
        found: dict[str, Any] = {"working_dir": str(self.config.parent), "excludes": list(LEFT_OUT)}
        if self.requirements is not None:
            found["pip"] = str(self.requirements)
        if self.environment:
            found["env_vars"] = {name: variables[name] for name in self.environment}
        return found


class RayJobs:
    """A cluster's jobs.

    Args:
        address: Of its dashboard, such as ``http://head:8265``.

    Raises:
        ConfigError: The extra is not installed, or nothing answers there.
    """

    def __init__(self, address: str) -> None:
        try:
            from ray.job_submission import JobSubmissionClient

            self._client = JobSubmissionClient(address)
        except (ImportError, ModuleNotFoundError) as error:
            raise ConfigError("shapetune submit needs Ray's job client", "pip install 'shapetune[cluster]'") from error
        except (ConnectionError, RuntimeError, ValueError) as error:
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(
                f"--address {address}: no Ray cluster takes jobs there: {said}",
                "give the dashboard's address, http://HEAD:8265, and RAY_AUTH_TOKEN where the cluster wants one",
            ) from error

    def submit(self, submission: Submission, variables: dict[str, str]) -> str:
        """Return the name of the job that launches the study."""
        try:
            return str(
                self._client.submit_job(
                    entrypoint=submission.entrypoint(), runtime_env=submission.runtime_env(variables)
                )
            )
        except RuntimeError as error:
            raise ShapetuneError(f"the cluster refused the job: {str(error).splitlines()[0]}") from error

    def follow(self, job: str) -> Iterator[str]:
        """Yield what the job prints, as it prints it, until it ends."""
        told = 0
        while True:
            ended = str(self._client.get_job_status(job).value) in ENDED
            log = self._client.get_job_logs(job)
            if len(log) > told:
                yield log[told:]
                told = len(log)
            if ended:
                return
            time.sleep(POLL_SECONDS)

    def succeeded(self, job: str) -> bool:
        """Return whether the job ended well."""
        return str(self._client.get_job_status(job).value) == "SUCCEEDED"

    def stop(self, job: str) -> None:
        """Ask the job to end, as SIGTERM would."""
        self._client.stop_job(job)
