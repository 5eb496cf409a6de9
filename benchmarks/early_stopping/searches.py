"""Whole searches by the pipeline's own search stage, whose runs come from a landscape of curves instead of training."""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common.configs import measured_config
from benchmarks.early_stopping.problems import STEPS, CurveLandscape
from benchmarks.early_stopping.quick import QuickStopping
from benchmarks.outer.problems import SEEDS, row_of
from pipeline.config.schema import StudyConfig
from pipeline.config.settings import EarlyStoppingSettings
from pipeline.study.folder import StudyFolder
from pipeline.study.search_stage import SearchStage
from pipeline.trials.results import DISTINCT, RunResult, TrialResult
from pipeline.trials.types import Job, Progress
from shaping.certificate import Certificate
from shaping.shape import Shape

# What a trial costs that is trained to its end.
TRIAL_STEPS = STEPS * len(SEEDS)
Array = np.ndarray


@dataclass(frozen=True)
class Setting:
    """How a search stops trials.

    Attributes:
        stopping: ``None`` where it does not.
        slots: Runs side by side.
    """

    stopping: EarlyStoppingSettings | None
    slots: int = 2


@dataclass
class Tried:
    """One trial of a search, and what only the landscape knows of it.

    Attributes:
        index: Its number.
        true: Its point's true J.
        measured: Mean of its seeds' ends: what it measured, or would have.
        steps: That were trained, over all its seeds.
        ended: ``completed`` or ``stopped``; empty while it runs.
        projected: Of a stopped trial, the end that it was taken to be on its way to.
        deviation: Of a stopped trial, what was said of that.
        place: Of a stopped trial, how long its curve was.
    """

    index: int
    true: float
    measured: float
    steps: int = 0
    ended: str = ""
    projected: float = 0.0
    deviation: float = 0.0
    place: int = 0


@dataclass(frozen=True)
class Mark:
    """What a search recommends at some moment.

    Attributes:
        trials: Trials that had ended.
        recommended: Index of the trial whose point that is.
        regret: Of it, as a share of the span.
    """

    trials: int
    recommended: int
    regret: float


@dataclass(frozen=True)
class Found:
    """What one search did.

    Attributes:
        tried: Its trials, in order.
        by_trials: Number of trials to what was recommended once so many had ended.
        by_steps: The same numbers to what was recommended once it had trained as many steps as so many whole trials.
        seconds: Processor time.
    """

    tried: list[Tried]
    by_trials: dict[int, Mark]
    by_steps: dict[int, Mark]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Found:
        """Return what ``to_dict`` gave, also after JSON."""
        by_trials, by_steps = (
            {int(count): Mark(**mark) for count, mark in values[name].items()} for name in ("by_trials", "by_steps")
        )
        return cls([Tried(**each) for each in values["tried"]], by_trials, by_steps, values["seconds"])


class StoppingSearch:
    """One search, with its slots stepped by turns.

    Args:
        world: What runs come from.
        setting: How trials are stopped.
        stops: Numbers of trials after which, and after whose steps, a recommendation is asked for.
        repeat: Seed of the proposals and of all luck.
        quick: Whether decisions are made without Ax, which are the same.
    """

    def __init__(
        self, world: CurveLandscape, setting: Setting, stops: tuple[int, ...], repeat: int, quick: bool = True
    ) -> None:
        self._world, self._setting, self._stops = world, setting, stops
        self._repeat, self._quick = repeat, quick
        self._tried: dict[int, Tried] = {}
        self._runs: dict[tuple[int, int], Array] = {}
        self._by_trials: dict[int, Mark] = {}
        self._by_steps: dict[int, Mark] = {}
        self._steps = 0

    def found(self) -> Found:
        """Return what the search does until its last recommendation."""
        # Ax draws from torch's global generator.
        torch.manual_seed(self._repeat)
        started = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            self._stage = self._made(Path(folder))
            slots: list[tuple[Job, int] | None] = [self._asked() for _ in range(self._setting.slots)]
            while not self._over():
                for place, slot in enumerate(slots):
                    slots[place] = self._asked() if slot is None else self._stepped(*slot)
                    if slots[place] is None:
                        # A slot that is free takes a job at once.
                        slots[place] = self._asked()
                    self._mark()
        seconds = time.process_time() - started
        return Found(list(self._tried.values()), self._by_trials, self._by_steps, seconds)

    def _made(self, folder: Path) -> SearchStage:
        config = study_config(self._setting.stopping, self._repeat, max(self._stops))
        study = StudyFolder(folder)
        study.create(config)
        stage = SearchStage(config, study, None)
        # Nothing is read back, and saving takes a third of the time.
        stage.outer._store = None
        settings = self._setting.stopping
        if settings is not None and self._quick:
            least_steps = round(settings.least_share * STEPS)
            stage._stopping = QuickStopping(settings.worst_percent, least_steps, settings.least_trials)
        return stage

    def _over(self) -> bool:
        return len(self._by_trials) == len(self._by_steps) == len(self._stops)

    def _asked(self) -> tuple[Job, int] | None:
        """Return a job and its next step; ``None`` where nothing can be handed out before others end."""
        job = self._stage.ask()
        if job is None:
            return None
        if job.index not in self._tried:
            row = row_of(Shape.from_dict(job.arm["shape"]))
            for seed in SEEDS:
                self._runs[job.index, seed] = self._world.run(row, self._repeat, job.index, seed)
            measured = float(np.mean([self._runs[job.index, seed][-1] for seed in SEEDS]))
            self._tried[job.index] = Tried(job.index, float(self._world.ends.mean(row[None])[0]), measured)
        return job, 0

    def _stepped(self, job: Job, step: int) -> tuple[Job, int] | None:
        """Train a job's next step; return it with the one after, ``None`` once it is over."""
        (seed,), stage, tried = job.seeds, self._stage, self._tried[job.index]
        run = self._runs[job.index, seed]
        self._steps += 1
        tried.steps += 1
        ending = stage.report(job, Progress(step + 1, seed, step, {"objective": float(run[step])}))
        if ending is not None:
            self._note_stop(tried)
        if stage.should_stop(job):
            stage.stopped(job)
            return None
        if step + 1 < STEPS:
            return job, step + 1
        if stage.tell(job, TrialResult.of([run_result(seed, run)])) is not None:
            tried.ended = "completed"
        return None

    def _note_stop(self, tried: Tried) -> None:
        assert self._stage._stopping is not None
        projection = self._stage._stopping.projection(tried.index)
        assert projection is not None
        tried.ended, tried.place = "stopped", len(self._stage._open[tried.index].curve())
        tried.projected, tried.deviation = projection.objective, projection.deviation

    def _mark(self) -> None:
        """Take down what is recommended at the moments that were asked for."""
        for count in self._stops:
            first = list(self._tried.values())[:count]
            if count not in self._by_trials and len(first) == count and all(trial.ended for trial in first):
                self._by_trials[count] = self._recommended()
            if count not in self._by_steps and self._steps == count * TRIAL_STEPS:
                self._by_steps[count] = self._recommended()

    def _recommended(self) -> Mark:
        best, ends = self._stage.outer.ranking()[0].index, self._world.ends
        ended = sum(bool(trial.ended) for trial in self._tried.values())
        return Mark(ended, best, max(0.0, (ends.best - self._tried[best].true) / ends.span))


def study_config(stopping: EarlyStoppingSettings | None, seed: int, trials: int) -> StudyConfig:
    """Return the quickstart's config with early stopping, and with room for the trials that it saves."""
    config = measured_config("quickstart")
    # A trial takes a step at the least: a search cannot use more.
    changes = {"early_stopping": stopping, "seed": seed, "trials": trials * TRIAL_STEPS}
    return config.model_copy(update={"search": config.search.model_copy(update=changes)})


def run_result(seed: int, run: Array) -> RunResult:
    """Return a seed's result as training would leave it; what no decision looks at is a constant."""
    evaluation: dict[str, Any] = dict.fromkeys(("reward", "kl_nats", "response_tokens", "entropy_nats", *DISTINCT), 1.0)
    return RunResult(
        seed=seed,
        curve=tuple({"objective": float(value)} for value in run[:-1]),
        evaluation={**evaluation, "objective": float(run[-1]), "gold_reward": None},
        certificate=Certificate(0.0, 1, 1.0, {}),
        training_cpu_seconds=0.0,
    )
