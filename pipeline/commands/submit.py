"""``shapetune submit``: the study is checked here and launched there."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console

from pipeline.config.load import find_config, load_config
from pipeline.config.schema import StudyConfig
from pipeline.runtime.signals import Interrupted
from pipeline.trainers.custom import find_trainer
from shaping.errors import ConfigError
from shaping.printable import printable


def submit_study(
    name: str,
    changes: tuple[str, ...],
    address: str,
    studies: Path,
    requirements: Path | None,
    environment: tuple[str, ...],
    follow: bool,
    console: Console,
) -> int:
    """Submit a study as a job of a Ray cluster, print how to follow it, and return the exit code.

    Args:
        name: A config's path or a built-in config's name.
        changes: ``key=value`` overrides.
        address: Of the cluster's dashboard.
        studies: The folder that studies are kept in, on the cluster.
        requirements: A pip requirements file for the nodes.
        environment: Names of variables that the job needs.
        follow: Whether to print what the job prints, until it ends; the exit code is then the job's.
        console: Where to print.

    Raises:
        ShapetuneError: Something is wrong that can be seen here, or the cluster does not take the job.
    """
    path = find_config(name).absolute()
    config = load_config(path, changes)
    if config.trainer is not None:
        find_trainer(config.trainer.function)
    _check_places(studies, requirements)
    if config.executor.name == "local":
        console.print("executor.name = local: on the cluster, the study runs under Ray")
    from pipeline.executors.ray_jobs import RayJobs, Submission

    submission = Submission(path, config.name, changes, studies, requirements, environment)
    submission.runtime_env(dict(os.environ))
    jobs = RayJobs(address)
    job = jobs.submit(submission, dict(os.environ))
    _show(job, config, address, studies, console)
    if not follow:
        return 0
    try:
        for text in jobs.follow(job):
            console.out(printable(text), end="", highlight=False)
        code = jobs.exit_code(job)
    except Interrupted as stop:
        raise Interrupted(
            stop.number,
            f"stopped by {stop.name}; the job goes on",
            f"end it with: ray job stop {job} --address {address}",
        ) from None
    if code:
        console.print(f"job     {job} ended with code {code}; submitting again resumes it", soft_wrap=True)
    return code


def _check_places(studies: Path, requirements: Path | None) -> None:
    if not studies.is_absolute():
        raise ConfigError(
            f"--studies {studies} is a relative path, and a job's working folder is gone when it ends",
            "give a folder on storage that all nodes share, such as /mnt/shared/studies",
        )
    if requirements is not None and not requirements.is_file():
        raise ConfigError(f"--requirements {requirements} does not exist", "give a pip requirements file")


def _show(job: str, config: StudyConfig, address: str, studies: Path, console: Console) -> None:
    lines = [
        f"job     {job}, study {config.name} in {studies / config.name}",
        f"follow  ray job logs {job} --address {address} --follow",
        f"stop    ray job stop {job} --address {address}",
    ]
    if config.storage.url is not None:
        lines.append(f"status  shapetune status {config.name} --storage {config.storage.url}")
    for line in lines:
        console.print(printable(line), soft_wrap=True, markup=False)
