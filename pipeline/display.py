"""What a launch shows while it runs: progress with time left, and a line for every trial that ends."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipeline.arm import Arm
from pipeline.config import StudyConfig
from pipeline.confirmation import confirmation_arms
from pipeline.ending import Ending
from pipeline.trial import Job
from pipeline.trial import Progress as TrialProgress
from shaping.printable import printable

STAGES = {"search": "searching shapes", "confirm": "confirming on fresh seeds"}


class StudyDisplay:
    """Two progress bars, in training steps; when the output is not a terminal, only the lines of ended trials.

    Args:
        config: The study's config, for the totals.
        console: Where to print.
        reward_critic: Whether a critic can start as the task's reward model, which makes one arm more to confirm.
    """

    def __init__(self, config: StudyConfig, console: Console, reward_critic: bool = True) -> None:
        self._console, self._steps = console, config.ppo.steps
        arms = len(confirmation_arms(Arm("any", config.base_shape()), config.base_shape(), reward_critic))
        self._totals = {
            "search": config.search.trials * len(config.search.seeds) * config.ppo.steps,
            "confirm": (arms + config.confirm.top - 1) * len(config.confirm.seeds) * config.ppo.steps,
        }
        self._done: dict[str, dict[str, int]] = {"search": {}, "confirm": {}}
        self._progress = Progress(
            TextColumn("{task.description:<26}"),
            BarColumn(bar_width=32),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("[dim]elapsed"),
            TimeElapsedColumn(),
            TextColumn("[dim]left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._bars: dict[str, Any] = {}

    def already(self, stage: str, steps: int) -> None:
        """Count training steps that an earlier launch finished."""
        self._done[stage]["before"] = steps

    def __enter__(self) -> StudyDisplay:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def started(self, stage: str, job: Job) -> None:
        """Show the stage's bar once its first job is out."""
        if stage not in self._bars:
            before = sum(self._done[stage].values())
            self._bars[stage] = self._progress.add_task(STAGES[stage], total=self._totals[stage], completed=before)

    def progressed(self, stage: str, job: Job, progress: TrialProgress) -> None:
        """Move the stage's bar."""
        self._move(stage, job, progress.done_steps)

    def left(self, stage: str, job: Job) -> None:
        """Count a job that ended as done, however it ended."""
        self._move(stage, job, job.total_steps)

    def retried(self, stage: str, job: Job, reason: str) -> None:
        """Print why an attempt failed."""
        name = f"trial {job.index:>2}" if stage == "search" else _plain(job.arm["name"])
        line = f"  {name}, seed {job.seeds[0]}: [yellow]goes on from its last checkpoint[/] after {_plain(reason)}"
        self._progress.console.print(line, highlight=False)

    def ended(self, stage: str, job: Job, ending: Ending) -> None:
        """Print one line for a search trial; a confirmation run only when it failed."""
        outcome = ending.outcome
        if ending.stopped:
            self._progress.console.print(f"  trial {job.index:>2}  {_plain(ending.reason)}", highlight=False)
        elif outcome is None:
            line = f"  {_plain(job.arm['name'])}: [red]failed[/], {_plain(ending.reason)}"
            self._progress.console.print(line, highlight=False)
        elif stage == "search":
            mean, error = outcome.metrics["objective"]
            shape = Arm.from_dict(job.arm).shape.describe()
            spread = "" if error is None else f" ± {error:.3f}"
            self._progress.console.print(f"  trial {job.index:>2}  J {mean:+.3f}{spread}  {shape}", highlight=False)

    def _move(self, stage: str, job: Job, done: int) -> None:
        self._done[stage][f"{job.folder} {job.seeds}"] = done
        if stage in self._bars:
            self._progress.update(self._bars[stage], completed=sum(self._done[stage].values()))


def _plain(text: str) -> str:
    """Return what a model or an error wrote so that the console shows it and neither obeys nor formats it."""
    return escape(printable(text))
