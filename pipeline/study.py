"""A study: the search, then the confirmation, as one source of jobs. Launching and going on are the same call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from pipeline.arm import Arm
from pipeline.config import StudyConfig
from pipeline.confirmation import Verdict, confirmation_arms, judge
from pipeline.outer import TRACKED, OuterLoop, Prediction, Proposal
from pipeline.study_folder import StudyFolder, read_json
from pipeline.trial import Job, Outcome, Progress, write_json
from shaping.errors import ShapetuneError

CERTIFICATE_FAILED = "certificate"


class Listener(Protocol):
    """What a display hears of a study as it runs."""

    def started(self, stage: str, job: Job) -> None:
        """A job was handed out."""

    def progressed(self, stage: str, job: Job, progress: Progress) -> None:
        """A job trained one more step."""

    def ended(self, stage: str, job: Job, outcome: Outcome | None, reason: str) -> None:
        """A job ended; without an outcome ``reason`` says why."""


class SearchStage:
    """The outer loop as a source of jobs."""

    name = "search"

    def __init__(self, config: StudyConfig, folder: StudyFolder, assets: Path | None) -> None:
        self._config, self._folder, self._assets = config, folder, assets
        self.outer = OuterLoop(
            name=config.name,
            space=config.make_space(),
            database=folder.database,
            trials=config.search.trials,
            sobol_trials=config.search.sobol_trials,
            seed=config.search.seed,
        )

    def ask(self) -> Job | None:
        """Return the next trial's job."""
        proposal = self.outer.ask()
        return None if proposal is None else self._job(proposal)

    def _job(self, proposal: Proposal) -> Job:
        folder = self._folder.trial_folder(proposal.index)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "trial.json", {"index": proposal.index, "arm": proposal.arm, "origin": proposal.origin})
        return Job(
            index=proposal.index,
            folder=str(folder),
            arm=Arm(proposal.arm, proposal.shape).to_dict(),
            seeds=self._config.search.seeds,
            config=self._config.model_dump(mode="json"),
            assets="" if self._assets is None else str(self._assets),
        )

    def finished(self) -> bool:
        """Return whether every trial has ended."""
        return self.outer.finished()

    def tell(self, job: Job, outcome: Outcome) -> None:
        """Tell the outer loop; a trial whose certificate failed is given up."""
        name = "objective" if self._config.search.objective == "final" else "curve_objective"
        metrics = outcome.metrics
        tracked = {name: metrics[name][0] for name in TRACKED if name in metrics}
        tracked["certificate_error"] = outcome.certificate["largest_error"]
        self.outer.tell(job.index, outcome.metrics[name][0], tracked)

    def fail(self, job: Job) -> None:
        """Give the trial up."""
        self.outer.fail(job.index)


class ConfirmStage:
    """The winner and its baselines on fresh seeds, one run a job, paired by seed."""

    name = "confirm"

    def __init__(
        self, config: StudyConfig, folder: StudyFolder, assets: Path | None, winner: Arm, reward_critic: bool
    ) -> None:
        self._config, self._folder, self._assets = config, folder, assets
        self.arms = confirmation_arms(winner, config.base_shape(), reward_critic)
        # Seed by seed, so that an interrupted confirmation holds whole pairs.
        self._waiting = [self._job(arm, seed) for seed in config.confirm.seeds for arm in self.arms]
        self._waiting = [job for job in self._waiting if not self._ended(job)]
        self._running = 0

    def _job(self, arm: Arm, seed: int) -> Job:
        return Job(
            index=-1,
            folder=str(self._folder.confirm_folder(arm.name, seed)),
            arm=arm.to_dict(),
            seeds=(seed,),
            config=self._config.model_dump(mode="json"),
            assets="" if self._assets is None else str(self._assets),
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

    def tell(self, job: Job, outcome: Outcome) -> None:
        """Take note that a run ended; its result is in its folder."""
        self._running -= 1

    def fail(self, job: Job) -> None:
        """Take note that a run ended without a result."""
        self._running -= 1


class Study:
    """Search, then confirmation: the source that an executor works through.

    Args:
        config: The study's config.
        folder: Where it is kept.
        assets: The folder of what the task built once; ``None`` where it built nothing.
        listener: Hears what happens.
        reward_critic: Whether a critic can start as the task's reward model.
    """

    def __init__(
        self,
        config: StudyConfig,
        folder: StudyFolder,
        assets: Path | None,
        listener: Listener,
        reward_critic: bool = True,
    ) -> None:
        self.config, self.folder = config, folder
        self._assets, self._listener, self._reward_critic = assets, listener, reward_critic
        self._search = SearchStage(config, folder, assets)
        self._confirm: ConfirmStage | None = None

    def _stage(self) -> SearchStage | ConfirmStage:
        if not self._search.finished():
            return self._search
        if self._confirm is None:
            self._confirm = ConfirmStage(self.config, self.folder, self._assets, self.winner(), self._reward_critic)
        return self._confirm

    def ask(self) -> Job | None:
        """Return the next job of the current stage."""
        stage = self._stage()
        job = stage.ask()
        if job is not None:
            self._listener.started(stage.name, job)
        return job

    def finished(self) -> bool:
        """Return whether the confirmation has ended, or the search where nothing was found or is confirmed."""
        if not self._search.finished():
            return False
        if not self._search.outer.any_completed():
            return True
        return self._stage().finished()

    def report(self, job: Job, progress: Progress) -> None:
        """Pass a training step on to the listener."""
        self._listener.progressed(self._stage_of(job).name, job, progress)

    def tell(self, job: Job, outcome: Outcome) -> None:
        """Take an outcome; a broken certificate makes it a failure."""
        if not outcome.certificate["return_preserving"] and self.config.shape.policy_preserving:
            error = outcome.certificate["largest_error"]
            self.fail(job, CERTIFICATE_FAILED, f"a response's rewards missed its score by {error:.2e}")
            return
        stage = self._stage_of(job)
        stage.tell(job, outcome)
        self._listener.ended(stage.name, job, outcome, "")

    def fail(self, job: Job, reason: str, detail: str) -> None:
        """Record a failed job with its reason; the study goes on."""
        folder = Path(job.folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "failure.json", {"reason": reason, "detail": detail, "arm": job.arm})
        stage = self._stage_of(job)
        stage.fail(job)
        self._listener.ended(stage.name, job, None, f"{reason}: {detail}")

    def _stage_of(self, job: Job) -> SearchStage | ConfirmStage:
        return self._search if job.index >= 0 or self._confirm is None else self._confirm

    def ranking(self) -> list[Prediction]:
        """Return the search's completed arms, best first."""
        return self._search.outer.ranking()

    def trials(self) -> list[dict[str, Any]]:
        """Return the search's trials as plain values."""
        return self._search.outer.trials()

    def winner(self) -> Arm:
        """Return the search's winner.

        It is chosen once and kept with its ranking, so that a confirmation never changes its subject.

        Raises:
            ShapetuneError: No trial of the search succeeded.
        """
        kept = read_json(self.folder.winner_file)
        if kept is not None:
            return Arm.from_dict(kept)
        ranking = self.ranking()
        if not ranking:
            raise ShapetuneError("no trial of the search succeeded", "shapetune status shows each one's reason")
        write_json(self.folder.ranking_file, [vars(row) for row in ranking])
        rows = {row["index"]: row for row in self.trials()}
        best = rows[ranking[0].index]
        winner = Arm.from_dict({"name": best["arm"], "shape": best["shape"], "critic": None})
        write_json(self.folder.winner_file, winner.to_dict())
        return winner

    def verdict(self) -> Verdict | None:
        """Return the verdict and keep it in the folder; ``None`` when nothing was confirmed."""
        runs = confirmation_runs(self.folder)
        if not runs.get("winner"):
            return None
        verdict = judge(self.winner().name, runs)
        write_json(self.folder.verdict_file, verdict.to_dict())
        return verdict


def confirmation_runs(folder: StudyFolder) -> dict[str, list[dict[str, Any]]]:
    """Return each confirmed arm's finished runs, in seed order."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.confirm.glob("*/result.json")):
        if (path.parent / "failure.json").exists():  # its certificate was refused
            continue
        result = json.loads(path.read_text())
        runs.setdefault(result["arm"]["name"], []).extend(result["runs"])
    return {name: sorted(results, key=lambda run: int(run["seed"])) for name, results in runs.items()}
