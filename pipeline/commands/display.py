"""What a launch shows while it runs: progress with time left, and a line for every trial that ends."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from pipeline.commands.step_count import StepCount
from pipeline.config.schema import StudyConfig
from pipeline.runtime.time_left import time_left
from pipeline.study.progress import ProgressFile
from pipeline.study.standing import SEARCH, STAGES
from pipeline.trials.arm import Arm
from pipeline.trials.ending import Ending
from pipeline.trials.run import Job
from pipeline.trials.run import Progress as TrialProgress
from shaping.printable import printable


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
            f"  {name}, seed {job.seeds[0]}: [yellow]goes on from its last checkpoint[/] after {_plain(reason)}"
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
            shape = Arm.from_dict(job.arm).shape.describe()
            spread = "" if error is None else f" ± {error:.3f}"
            self._progress.console.print(f"  trial {job.index:>2}  J {mean:+z.3f}{spread}  {shape}")

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
