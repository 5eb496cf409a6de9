"""The search as a source of jobs: seeds of the outer loop's trials, side by side where there is room."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from pipeline.config.schema import StudyConfig
from pipeline.search.early_stopping import EarlyStopping, Projection
from pipeline.search.outer_loop import OuterLoop
from pipeline.search.proposal import Proposal
from pipeline.search.tracked import tracked_values
from pipeline.storage.database import study_database
from pipeline.study.folder import StudyFolder
from pipeline.study.running_trial import RunningTrial
from pipeline.study.warm_start import copy_results, read_warm_start
from pipeline.trials.records import Origin, StopRecord, TrialState
from pipeline.trials.results import TrialResult
from pipeline.trials.types import Ending, Job, Progress


class SearchStage:
    """The outer loop's trials, one job a seed; seeds of trials that have begun go first.

    Args:
        config: The study's config.
        folder: Where the study is kept.
        assets: The folder of what the task built once; ``None`` where it built nothing.
    """

    name = "search"

    def __init__(self, config: StudyConfig, folder: StudyFolder, assets: Path | None) -> None:
        self._config, self._folder = config, folder
        self._assets = "" if assets is None else str(assets)
        self._plain = config.model_dump(mode="json")
        self._open: dict[int, RunningTrial] = {}
        self.outer = self._outer_loop()
        self._restore_files()
        self._stopping = self._early_stopping()

    def _outer_loop(self) -> OuterLoop:
        config, folder = self._config, self._folder
        warm = read_warm_start(config, folder)
        space = config.make_space()
        database = study_database(config.storage, folder.root)
        outer = OuterLoop(config.name, space, database, config.search, warm.trials, warm.arms)
        for row in outer.trials():
            if row["arm"] in warm.sources and row["status"] == "completed":
                source = warm.sources[row["arm"]]
                copy_results(folder, row["index"], row["arm"], source, config.search.seeds)
        return outer

    def _early_stopping(self) -> EarlyStopping | None:
        """Return what stops trials, with all that earlier launches saw; ``None`` where nothing is to be stopped."""
        settings, steps = self._config.search.early_stopping, self._config.ppo.steps
        if settings is None:
            return None
        stopping = EarlyStopping(settings.worst_percent, round(settings.least_share * steps), settings.least_trials)
        for row in self.outer.trials():
            trial = self._trial(self.outer.proposal(row["index"]))
            if row["status"] == "completed" and trial.complete:
                stopping.observe(row["index"], trial.curve())
                stopping.completed(row["index"], fmean(self._values(trial).values()))
            elif row["status"] == "early_stopped":
                stop = trial.files.stop()
                if stop is not None and stop.curve:
                    stopping.observe(row["index"], stop.curve)
                    stopping.stopped(row["index"])
        return stopping

    def _restore_files(self) -> None:
        """Write what the folder lacks of ended trials, as far as the database and their seeds' files tell it."""
        for row in self.outer.trials():
            trial = self._trial(self.outer.proposal(row["index"]))
            if row["status"] != "running" and trial.files.folder.is_dir():
                trial.restore(row)

    def _trial(self, proposal: Proposal) -> RunningTrial:
        return RunningTrial(proposal, self._folder.trial_folder(proposal.index), self._config.search.seeds)

    def ask(self) -> Job | None:
        """Return the next seed's job."""
        while True:
            for trial in self._open.values():
                if trial.waiting:
                    return self._job(trial)
            proposal = self.outer.ask()
            if proposal is None:
                return None
            self._begin(self._trial(proposal))

    def _begin(self, trial: RunningTrial) -> None:
        """Open a trial; one that ended although an earlier launch could not say so any more is ended now."""
        index = trial.proposal.index
        trial.files.folder.mkdir(parents=True, exist_ok=True)
        trial.write_record()
        stop = trial.files.stop()
        if stop is not None:
            self.outer.stop(index, Projection(stop.objective, stop.deviation))
            return
        self._open[index] = trial
        if trial.complete:
            self._complete(trial)

    def _job(self, trial: RunningTrial) -> Job:
        seed = trial.waiting.pop(0)
        trial.out.add(seed)
        return Job(
            index=trial.proposal.index,
            folder=str(trial.files.folder),
            arm=trial.arm.to_dict(),
            seeds=(seed,),
            config=self._plain,
            assets=self._assets,
        )

    def finished(self) -> bool:
        """Return whether every trial has ended and no job of one runs."""
        return not self._open and self.outer.finished()

    def report(self, job: Job, progress: Progress) -> Ending | None:
        """Take a training step; the ending is that of a trial which stops because of it."""
        trial, steps = self._open[job.index], self._config.ppo.steps
        trial.observe(progress.seed, progress.step, progress.point["objective"])
        if self._stopping is None or trial.ended:
            return None
        curve = trial.curve()
        self._stopping.observe(job.index, curve)
        unfinished = len(curve) < steps
        if trial.proposal.origin == Origin.BASELINE or not unfinished or not self._stopping.should_stop(job.index):
            return None
        projection = self._stopping.projection(job.index)
        return None if projection is None else self._stop(trial, curve, projection)

    def _stop(self, trial: RunningTrial, curve: list[float], projection: Projection) -> Ending:
        index, total = trial.proposal.index, self._config.ppo.steps * len(trial.seeds)
        trial.end(TrialState.STOPPED)
        # The file first: a launch that finds it knows how the trial ended, whatever the database says.
        trial.files.write_stop(StopRecord(trial.done_steps, projection.objective, projection.deviation, tuple(curve)))
        self.outer.stop(index, projection)
        assert self._stopping is not None
        self._stopping.stopped(index)
        return Ending(
            None,
            f"stopped after {trial.done_steps} of {total} steps: it was on its way to "
            f"J {projection.objective:+.3f} ± {projection.deviation:.3f}",
            stopped=True,
        )

    def should_stop(self, job: Job) -> bool:
        """Return whether a job runs for nothing because its trial has ended."""
        return self._open[job.index].ended is not None

    def tell(self, job: Job, outcome: TrialResult) -> Ending | None:
        """Take a finished seed; the ending is its trial's once all seeds are there."""
        trial = self._leave(job)
        trial.runs.update({run.seed: run for run in outcome.runs})
        if trial.ended or not trial.complete:
            self._close(trial)
            return None
        return self._complete(trial)

    def _complete(self, trial: RunningTrial) -> Ending:
        index, outcome = trial.proposal.index, trial.write_result()
        values = self._values(trial)
        self.outer.tell(index, values, tracked_values(outcome.metrics, outcome.certificate))
        if self._stopping is not None:
            self._stopping.observe(index, trial.curve())
            self._stopping.completed(index, fmean(values.values()))
        del self._open[index]
        return Ending(outcome, "")

    def _values(self, trial: RunningTrial) -> dict[int, float]:
        objective = self._config.search.objective
        return {run.seed: run.searched(objective) for run in trial.ordered_runs()}

    def fail(self, job: Job, reason: str) -> Ending | None:
        """Give a trial up for one seed's failure; the ending is ``None`` where it had ended before."""
        trial = self._leave(job)
        ended = trial.ended is not None
        if not ended:
            trial.end(TrialState.FAILED)
            self.outer.fail(job.index, reason)
            if self._stopping is not None:
                self._stopping.failed(job.index)
        self._close(trial)
        return None if ended else Ending(None, reason)

    def stopped(self, job: Job) -> None:
        """Take note that a job of an ended trial runs no more."""
        self._close(self._leave(job))

    def _leave(self, job: Job) -> RunningTrial:
        trial = self._open[job.index]
        trial.out -= set(job.seeds)
        return trial

    def _close(self, trial: RunningTrial) -> None:
        if trial.ended and not trial.out:
            del self._open[trial.proposal.index]
