"""The confirmation as a source of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.config.schema import StudyConfig
from pipeline.runtime.files import write_json
from pipeline.study.folder import StudyFolder
from pipeline.study.verdict import SPARSE
from pipeline.trials.arm import Arm
from pipeline.trials.types import Ending, Job, Outcome


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
        return any((Path(job.folder) / name).exists() for name in ("result.json", "failure.json"))

    def ask(self) -> Job | None:
        """Return the next run's job."""
        if not self._waiting:
            return None
        self._running += 1
        return self._waiting.pop(0)

    def finished(self) -> bool:
        """Return whether every run has ended."""
        return not self._waiting and self._running == 0

    def tell(self, job: Job, outcome: Outcome) -> Ending:
        """Keep a run's result."""
        kept = {**outcome.to_dict(), "arm": job.arm, "seeds": list(job.seeds)}
        write_json(Path(job.folder) / "result.json", kept)
        self._running -= 1
        return Ending(outcome, "")

    def fail(self, job: Job, reason: str) -> Ending:
        """Take note that a run ended without a result."""
        self._running -= 1
        return Ending(None, reason)
