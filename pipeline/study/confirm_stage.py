"""The confirmation as a source of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.config.schema import StudyConfig
from pipeline.study.folder import StudyFolder
from pipeline.trials.arm import Arm
from pipeline.trials.records import TrialFiles
from pipeline.trials.results import RunResult, TrialResult
from pipeline.trials.types import Ending, Job
from shaping.method_names import SPARSE


class ConfirmStage:
    """Arms on fresh seeds, one run a job, paired by seed.

    Args:
        config: The study's config.
        folder: Where the study is kept.
        assets: The folder of what the task built once; ``None`` where it built nothing.
        arms: What is confirmed.
    """

    name = "confirm"

    def __init__(self, config: StudyConfig, folder: StudyFolder, assets: Path | None, arms: Sequence[Arm]) -> None:
        self._folder, self._assets = folder, "" if assets is None else str(assets)
        self._plain = config.model_dump(mode="json")
        # Seed by seed, so that an interrupted confirmation holds whole pairs.
        waiting = [self._job(arm, seed) for seed in config.confirm.seeds for arm in arms]
        self._waiting = [job for job in waiting if not self._ended(job)]
        self._running = 0

    def _job(self, arm: Arm, seed: int) -> Job:
        return Job(
            index=-1,
            folder=str(self._folder.confirm_folder(arm.name, seed)),
            arm=arm.to_dict(),
            seeds=(seed,),
            config=self._plain,
            assets=self._assets,
            judges_untrained=arm.name == SPARSE,
        )

    @staticmethod
    def _ended(job: Job) -> bool:
        return job.files.has_result or job.files.has_failure

    def ask(self) -> Job | None:
        """Return the next run's job."""
        if not self._waiting:
            return None
        self._running += 1
        return self._waiting.pop(0)

    def finished(self) -> bool:
        """Return whether every run has ended."""
        return not self._waiting and self._running == 0

    def tell(self, job: Job, outcome: TrialResult) -> Ending:
        """Keep a run's result."""
        job.files.write_result(Arm.from_dict(job.arm), outcome)
        self._running -= 1
        return Ending(outcome, "")

    def fail(self, job: Job, reason: str) -> Ending:
        """Take note that a run ended without a result."""
        self._running -= 1
        return Ending(None, reason)


def confirmed_arms(folder: StudyFolder) -> dict[str, tuple[Arm, list[RunResult]]]:
    """Return each confirmed arm by its name, with its finished runs in seed order.

    Raises:
        DamagedFileError: A result is not what was written.
    """
    found: dict[str, tuple[Arm, list[RunResult]]] = {}
    for path in sorted(folder.confirm.glob("*")):
        files = TrialFiles(path)
        saved = files.result()
        # One whose certificate was refused has a failure beside its result.
        if saved is not None and not files.has_failure:
            found.setdefault(saved.arm.name, (saved.arm, []))[1].extend(saved.result.runs)
    return {name: (arm, sorted(runs, key=lambda run: run.seed)) for name, (arm, runs) in found.items()}


def confirmation_runs(folder: StudyFolder) -> dict[str, list[RunResult]]:
    """Return each confirmed arm's finished runs, in seed order."""
    return {name: runs for name, (_, runs) in confirmed_arms(folder).items()}
