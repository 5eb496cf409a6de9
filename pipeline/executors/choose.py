"""The executor that a config names; Ray is imported where it is wanted."""

from __future__ import annotations

from pipeline.config.settings import ExecutorSettings
from pipeline.trials.types import Executor


def make_executor(settings: ExecutorSettings) -> Executor:
    """Return the executor that the settings name."""
    if settings.name == "local":
        from pipeline.executors.local import LocalExecutor

        return LocalExecutor(settings.retries, settings.stall_minutes)
    from pipeline.executors.ray_tune import RayTuneExecutor

    return RayTuneExecutor(
        settings.slots,
        settings.address,
        settings.cpus,
        settings.gpus,
        retries=settings.retries,
        stall_minutes=settings.stall_minutes,
    )
