"""A study: the search, then the confirmation, as one source of jobs. Launching and resuming are the same call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

from pipeline.runtime.files import read_saved, write_json
from pipeline.runtime.signals import raise_again
from pipeline.search.bounds import bounds_reached
from pipeline.search.posterior import Prediction
from pipeline.study.confirm_stage import ConfirmStage, confirmation_runs
from pipeline.study.prepared import PreparedStudy
from pipeline.study.search_stage import SearchStage
from pipeline.study.verdict import PLACE, Verdict, arms_beside_winner, confirmation_arms, judge
from pipeline.trials.arm import Arm
from pipeline.trials.failures import EXCEPTION
from pipeline.trials.records import FailureRecord, TrialFiles
from pipeline.trials.results import TrialResult
from pipeline.trials.types import Ending, Job, Progress
from search_spaces import is_without_credit
from shaping.errors import ShapetuneError

CERTIFICATE_FAILED = "certificate"


class Listener(Protocol):
    """What a display hears of a study as it runs."""

    def started(self, stage: str, job: Job) -> None:
        """A job was handed out."""

    def progressed(self, stage: str, job: Job, progress: Progress) -> None:
        """A job trained one more step."""

    def left(self, stage: str, job: Job) -> None:
        """A job ended, whatever became of it."""

    def retried(self, stage: str, job: Job, reason: str) -> None:
        """An attempt of a job failed; another one resumes from its last checkpoint."""

    def ended(self, stage: str, job: Job, ending: Ending) -> None:
        """A trial ended; ``job`` is the last of its jobs that said something."""


class StudySource:
    """Search, then confirmation: the source that an executor works through.

    Args:
        prepared: The study.
        listener: Hears what happens.
    """

    def __init__(self, prepared: PreparedStudy, listener: Listener) -> None:
        self.config, self.folder = prepared.config, prepared.folder
        self._prepared, self._listener = prepared, listener
        self._search = SearchStage(prepared.config, prepared.folder, prepared.models.assets)
        self._confirm: ConfirmStage | None = None
        # Failures that may be the code's fault rather than a trial's, until a run of any arm comes to its end.
        self._suspected: list[tuple[Job, str, str]] | None = [] if not self._any_run() else None

    def _any_run(self) -> bool:
        folders = (path for place in (self.folder.trials, self.folder.confirm) for path in place.glob("*"))
        return any(TrialFiles(path).count_runs() for path in folders)

    def _stage(self) -> SearchStage | ConfirmStage:
        if not self._search.finished():
            return self._search
        if self._confirm is None:
            self._confirm = ConfirmStage(self.config, self.folder, self._prepared.models.assets, self._confirmed())
        return self._confirm

    def ask(self) -> Job | None:
        """Return the next job of the current stage."""
        raise_again()
        stage = self._stage()
        job = stage.ask()
        if job is None and stage is self._search and not self.finished():
            # The search may end as it is asked: with a trial that an earlier launch had run to its end.
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

    def report(self, job: Job, progress: Progress) -> bool:
        """Take a training step; return whether the job is to stop."""
        raise_again()
        stage = self._stage_of(job)
        self._listener.progressed(stage.name, job, progress)
        if isinstance(stage, ConfirmStage):
            return False
        ending = stage.report(job, progress)
        if ending is not None:
            self._listener.ended(stage.name, job, ending)
        return stage.should_stop(job)

    def stopped(self, job: Job) -> None:
        """Take note that a job was stopped, as ``report`` asked for."""
        self._search.stopped(job)
        self._listener.left(self._search.name, job)

    def tell(self, job: Job, outcome: TrialResult) -> None:
        """Take an outcome; a broken certificate makes it a failure."""
        self._clear_suspicion()
        if not outcome.certificate.return_preserving and self.config.shape.policy_preserving:
            error = outcome.certificate.largest_error
            self.fail(job, CERTIFICATE_FAILED, f"a response's rewards missed its score by {error:.2e}")
            return
        stage = self._stage_of(job)
        self._ended(stage, job, stage.tell(job, outcome))

    def retried(self, job: Job, reason: str, detail: str) -> None:
        """Take note of an attempt that failed and is followed by another."""
        self._listener.retried(self._stage_of(job).name, job, f"{reason}: {detail}")

    def fail(self, job: Job, reason: str, detail: str) -> None:
        """Record a failed job with its reason; the study goes on.

        Raises:
            ShapetuneError: Two arms failed with an exception before any run came to its end: whatever it is, it is no
                trial's fault. Neither is given up; both run again once it is mended.
        """
        if self._suspected is not None and reason == EXCEPTION:
            self._suspected.append((job, reason, detail))
            if len({str(each.arm["name"]) for each, *_ in self._suspected}) > 1:
                raise ShapetuneError(
                    f"no run came to its end; two arms failed in the same way: {detail}",
                    "mend that, and the same command resumes; the whole trace is in "
                    f"{job.files.attempts_file(job.seeds)}",
                )
            return
        self._clear_suspicion()
        self._fail(job, reason, detail)

    def _clear_suspicion(self) -> None:
        suspected, self._suspected = self._suspected or [], None
        for each in suspected:
            self._fail(*each)

    def _fail(self, job: Job, reason: str, detail: str) -> None:
        job.files.folder.mkdir(parents=True, exist_ok=True)
        job.files.write_failure(FailureRecord(reason, detail, Arm.from_dict(job.arm)))
        stage = self._stage_of(job)
        self._ended(stage, job, stage.fail(job, f"{reason}: {detail}"))

    def _ended(self, stage: SearchStage | ConfirmStage, job: Job, ending: Ending | None) -> None:
        self._listener.left(stage.name, job)
        if ending is not None:
            self._listener.ended(stage.name, job, ending)

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

        It is chosen once and kept with its ranking, so that a confirmation never changes its subject; only a search
        that was given more trials chooses again.

        Raises:
            ShapetuneError: No trial of the search succeeded.
        """
        kept = read_saved(self.folder.winner_file, lambda found: (Arm.from_dict(found), found.get("trials")))
        if kept is not None and kept[1] in (None, self.config.search.trials):
            return kept[0]
        ranking = self.ranking()
        if not ranking:
            raise ShapetuneError("no trial of the search succeeded", "shapetune status shows each one's reason")
        if not ranking[0].feasible:
            raise ShapetuneError(
                "no trial is expected to keep to search.constraints", "start a new study with wider limits"
            )
        winner = self._arm(ranking[0])
        if kept is not None and kept[0].candidate != winner.candidate:
            self.folder.put_aside_winner(kept[1])
        write_json(self.folder.ranking_file, [vars(row) for row in ranking])
        # Found anew at the end: it takes seconds, for which the confirmation need not wait.
        self.folder.sensitivity_file.unlink(missing_ok=True)
        posterior, space = self._search.outer.posterior(), self.config.make_space()
        reached = bounds_reached(self.config, space, winner.candidate, posterior.predict)
        write_json(self.folder.bounds_file, [each.to_dict() for each in reached])
        write_json(self.folder.winner_file, {**winner.to_dict(), "trials": self.config.search.trials})
        return winner

    def keep_sensitivity(self) -> None:
        """Write which of the space's parameters matter to the model that the winner was chosen with."""
        if self.folder.winner_file.exists() and not self.folder.sensitivity_file.exists():
            write_json(self.folder.sensitivity_file, self._search.outer.posterior().sensitivity())

    def runners_up(self) -> list[Arm]:
        """Return the arms that are confirmed beside the winner, best first: ``confirm.top`` less one of them."""
        others = [row for row in self._kept_ranking() if row.arm != self.winner().name and row.feasible]
        wanted = others[: self.config.confirm.top - 1]
        return [replace(self._arm(row), name=f"{PLACE}{place}, {row.arm}") for place, row in enumerate(wanted, start=2)]

    def _kept_ranking(self) -> list[Prediction]:
        """Return the ranking that the winner was chosen from, best first."""
        ranking = read_saved(self.folder.ranking_file, lambda rows: [Prediction(**row) for row in rows])
        return self.ranking() if ranking is None else ranking

    def _confirmed(self) -> list[Arm]:
        """Return what is run on fresh seeds."""
        winner, base = self.winner(), self.config.base_shape()
        if not self.config.space.trainer:
            return confirmation_arms(winner, base, self._prepared.models.has_reward_critic) + self.runners_up()
        ranked = [self._arm(row) for row in self._kept_ranking() if row.feasible]
        return arms_beside_winner(winner, base, ranked) + self.runners_up()

    def _arm(self, row: Prediction) -> Arm:
        proposal = self._search.outer.proposal(row.index)
        return Arm(proposal.arm, proposal.shape, proposal.trainer)

    def verdict(self) -> Verdict | None:
        """Return the verdict and keep it in the folder; ``None`` when nothing was confirmed."""
        runs = confirmation_runs(self.folder)
        if not runs.get("winner"):
            return None
        winner = self.winner()
        found = bool(self.config.space.trainer)
        verdict = judge(winner.name, runs, found, has_credit=not (found and is_without_credit(winner.shape)))
        verdict = replace(verdict, text=(*verdict.text, *(each.words() for each in self.folder.bounds())))
        write_json(self.folder.verdict_file, verdict.to_dict())
        return verdict
