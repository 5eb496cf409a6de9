"""What a launch shows while it runs: progress with time left, and a line for every trial that ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from pipeline.config.schema import StudyConfig
from pipeline.runtime.console import time_left
from pipeline.study.progress import CONFIRM, SEARCH, STAGES, ProgressFile
from pipeline.study.verdict import confirmation_arms
from pipeline.trials.arm import Arm
from pipeline.trials.types import Ending, Job
from pipeline.trials.types import Progress as TrialProgress
from shaping.method_names import UNIFORM
from shaping.printable import printable


class StepCount:
    """Counts training steps as a study tells of them.

    Args:
        config: The study's config, for the totals.
        reward_critic: Whether a critic can start as the task's reward model, which makes one arm more to confirm.
        clock: Seconds.

    Attributes:
        totals: Planned steps of each stage.
    """

    def __init__(
        self, config: StudyConfig, reward_critic: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config, self._clock, self._run_steps = config, clock, config.ppo.steps
        arms = _confirmed_arms(config, reward_critic)
        self.totals = {
            SEARCH: config.search.trials * len(config.search.seeds) * self._run_steps,
            CONFIRM: (arms + config.confirm.top - 1) * len(config.confirm.seeds) * self._run_steps,
        }
        self._done: dict[str, dict[str, int]] = {SEARCH: {}, CONFIRM: {}}
        self._out: dict[str, dict[str, Any]] = {}
        self._began: float | None = None
        self._made_steps = self._ended_runs = 0

    def already(self, stage: str, steps: int) -> None:
        """Count training steps that an earlier launch finished, or need not make any more."""
        self._done[stage]["before"] = steps

    def started(self, stage: str, job: Job) -> None:
        """Count a job as out."""
        if self._began is None:
            self._began = self._clock()
        about = {"index": job.index, "arm": str(job.arm["name"]), "seed": job.seeds[0]}
        self._out[_key(job.folder, job.seeds)] = {"stage": stage, **about, "done_steps": 0}

    def progressed(self, stage: str, job: Job, progress: TrialProgress) -> None:
        """Count a training step."""
        key = _key(job.folder, job.seeds)
        self._made_steps += not progress.again
        if key in self._out:
            self._out[key]["done_steps"] = progress.done_steps
        # A run whose trial was given up counts as done, though it may still be out.
        if self._done[stage].get(key, 0) < job.total_steps:
            self._done[stage][key] = progress.done_steps

    def left(self, stage: str, job: Job) -> None:
        """Count a job that ended as done, however it ended."""
        key = _key(job.folder, job.seeds)
        self._ended_runs += self._out.pop(key, None) is not None
        self._done[stage][key] = job.total_steps

    def given_up(self, job: Job) -> None:
        """Count every run of a search trial as done: those that are not out yet will never be."""
        for seed in self._config.search.seeds:
            self._done[SEARCH][_key(job.folder, (seed,))] = self._run_steps

    def done(self, stage: str) -> int:
        """Return the steps of a stage that need not be made any more."""
        return min(sum(self._done[stage].values()), self.totals[stage])

    def seconds_left(self, *stages: str) -> float | None:
        """Return how long the rest of the stages will take at this launch's pace; ``None`` before a run has ended."""
        if self._began is None or not self._ended_runs or self._made_steps < self._run_steps:
            return None
        pace = (self._clock() - self._began) / self._made_steps
        return pace * sum(self.totals[stage] - self.done(stage) for stage in stages)

    def to_dict(self) -> dict[str, Any]:
        """Return what others are told: steps done and planned, runs that are out, and the seconds left."""
        return {
            "run_steps": self._run_steps,
            "stages": {name: {"done_steps": self.done(name), "total_steps": self.totals[name]} for name in self.totals},
            "runs": list(self._out.values()),
            "seconds_left": self.seconds_left(SEARCH, CONFIRM),
        }


def _key(folder: str, seeds: tuple[int, ...]) -> str:
    return f"{folder} {seeds}"


def _confirmed_arms(config: StudyConfig, reward_critic: bool) -> int:
    """Return how many arms will run on fresh seeds, without those of ``confirm.top``."""
    if config.space.trainer:
        # Winner, sparse, the best sparse rival, and the best that spreads evenly, where the space has any.
        return 3 + (UNIFORM in config.space.methods)
    return len(confirmation_arms(Arm("any", config.base_shape()), config.base_shape(), reward_critic))


class StudyDisplay:
    """Two progress bars, in training steps; when the output is not a terminal, only the lines of ended trials.

    Args:
        config: The study's config, for the totals.
        console: Where to print.
        reward_critic: Whether a critic can start as the task's reward model, which makes one arm more to confirm.
        kept: Where others read how far it is; ``None`` for nowhere.
    """

    def __init__(
        self, config: StudyConfig, console: Console, reward_critic: bool = True, kept: ProgressFile | None = None
    ) -> None:
        self._console, self._kept = console, kept
        self._count = StepCount(config, reward_critic)
        self._progress = Progress(
            TextColumn("{task.description:<25}"),
            BarColumn(bar_width=32),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            # Rich's own estimate forgets what is older than half a minute; steps may take longer.
            TextColumn("[dim]{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._bars: dict[str, Any] = {}

    def already(self, stage: str, steps: int) -> None:
        """Count training steps that an earlier launch finished, or need not make any more."""
        self._count.already(stage, steps)

    def __enter__(self) -> StudyDisplay:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def started(self, stage: str, job: Job) -> None:
        """Show the stage's bar once its first job is out."""
        self._count.started(stage, job)
        if stage not in self._bars:
            self._bars[stage] = self._progress.add_task(STAGES[stage], total=self._count.totals[stage], left="")
        self._show(stage, at_once=True)

    def progressed(self, stage: str, job: Job, progress: TrialProgress) -> None:
        """Move the stage's bar."""
        self._count.progressed(stage, job, progress)
        self._show(stage)

    def left(self, stage: str, job: Job) -> None:
        """Count a job that ended as done, however it ended."""
        self._count.left(stage, job)
        self._show(stage, at_once=True)

    def retried(self, stage: str, job: Job, reason: str) -> None:
        """Print why an attempt failed."""
        name = f"trial {job.index:>2}" if stage == SEARCH else _plain(job.arm["name"])
        self._progress.console.print(
            f"  {name}, seed {job.seeds[0]}: [yellow]resumes from its last checkpoint[/] after {_plain(reason)}"
        )

    def ended(self, stage: str, job: Job, ending: Ending) -> None:
        """Print one line for a search trial; a confirmation run only when it failed."""
        outcome = ending.outcome
        if outcome is None and stage == SEARCH:
            self._count.given_up(job)
            self._show(stage)
        if ending.stopped:
            self._progress.console.print(f"  trial {job.index:>2}  {_plain(ending.reason)}")
        elif outcome is None:
            self._progress.console.print(f"  {_plain(job.arm['name'])}: [red]failed[/], {_plain(ending.reason)}")
        elif stage == SEARCH:
            mean, error = outcome.metrics["objective"]
            tried = Arm.from_dict(job.arm).candidate.describe()
            spread = "" if error is None else f" ± {error:.3f}"
            self._progress.console.print(f"  trial {job.index:>2}  J {mean:+z.3f}{spread}  {tried}")

    def _show(self, stage: str, at_once: bool = False) -> None:
        count = self._count
        if stage in self._bars:
            done = count.done(stage)
            left = time_left(count.seconds_left(stage)) if done < count.totals[stage] else ""
            self._progress.update(self._bars[stage], completed=done, left=left)
        if self._kept is not None:
            self._kept.write(count.to_dict, at_once)


def _plain(text: str) -> str:
    """Return what a model or an error wrote so that the console shows it and neither obeys nor formats it."""
    return escape(printable(text))
