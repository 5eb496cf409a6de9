"""``shapetune submit``: the study is checked here and launched there."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console

from pipeline.builtin_configs import find_config
from pipeline.config import load_config
from shaping.errors import ConfigError, ShapetuneError


def submit_study(
    name: str,
    changes: tuple[str, ...],
    address: str,
    studies: Path,
    requirements: Path | None,
    environment: tuple[str, ...],
    follow: bool,
    console: Console,
) -> None:
    """Submit a study as a job of a Ray cluster, and print how to follow it.

    Args:
        name: A config's path or a built-in config's name.
        changes: ``key=value`` overrides.
        address: Of the cluster's dashboard.
        studies: The folder that studies are kept in, on the cluster.
        requirements: A pip requirements file for the nodes.
        environment: Names of variables that the job needs.
        follow: Whether to print what the job prints, until it ends.
        console: Where to print.

    Raises:
        ShapetuneError: Something is wrong that can be seen here, the cluster refuses the job, or the job failed.
    """
    path = find_config(name).absolute()
    config = load_config(path, changes)
    if not studies.is_absolute():
        raise ConfigError(
            f"--studies {studies} is a relative path, and a job's working folder is gone when it ends",
            "give a folder on storage that all nodes share, such as /mnt/shared/studies",
        )
    if requirements is not None and not requirements.is_file():
        raise ConfigError(f"--requirements {requirements} does not exist", "give a pip requirements file")
    if config.executor.name == "local":
        console.print("executor.name = local: on the cluster, the study runs under Ray")
    from pipeline.executors.ray_jobs import RayJobs, Submission

    jobs = RayJobs(address)
    job = jobs.submit(Submission(path, changes, studies, requirements, environment), dict(os.environ))
    console.print(f"job     {job}, study {config.name} in {studies / config.name}")
    console.print(f"follow  ray job logs {job} --address {address} --follow", soft_wrap=True)
    console.print(f"stop    ray job stop {job} --address {address}", soft_wrap=True)
    if config.storage.url is not None:
        console.print(f"status  shapetune status {config.name} --storage {config.storage.url}", soft_wrap=True)
    if not follow:
        return
    for text in jobs.follow(job):
        console.out(text, end="", highlight=False)
    if not jobs.succeeded(job):
        raise ShapetuneError(f"job {job} did not end well", "what it printed last says why; submitting again goes on")
