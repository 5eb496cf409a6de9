"""Trains one policy with one shape, without a study: also how an exported shape is used on one machine."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from tensorboardX import SummaryWriter

from pipeline.config.identity import what_decides_a_run
from pipeline.config.schema import StudyConfig
from pipeline.config.trainer_space import with_settings
from pipeline.runtime.files import write_json
from pipeline.runtime.trackers import RunTrackers, check_trackers
from pipeline.study.folder import unlike
from pipeline.study.provenance import task_files
from pipeline.tasks.models.saved_tokenizer import save_tokenizer
from pipeline.trainers.base import Task
from pipeline.trainers.ppo.evaluation import Evaluation
from pipeline.trainers.ppo.run import InnerRun
from pipeline.trainers.ppo.trainer import PPOTrainer
from shaping.errors import ConfigError
from shaping.printable import printable
from shaping.shape import Shape
from shaping.shape_file import ShapeFile

CHECKPOINT = "checkpoint.safetensors"
RESULT, RUN_FILE = "result.json", "run.json"
# In a run's identity: the contents of the user's own files.
FILES = "files"
# That a run says of its progress where there is no terminal.
LINES = 10


@dataclass(frozen=True)
class TrainingRun:
    """What is trained, and where it goes.

    Attributes:
        config: Task, PPO's settings and evaluation; its search and space do not matter here.
        shape: Where the reward falls.
        seed: Decides prompts, sampling and minibatches.
        folder: Gets the policy, TensorBoard logs, checkpoints and the result.
    """

    config: StudyConfig
    shape: Shape
    seed: int
    folder: Path

    def identity(self) -> dict[str, Any]:
        """Return what decides the run, as plain values."""
        chosen = self.config.model_dump(mode="json")
        parts = what_decides_a_run(chosen)
        files = {FILES: self.files} if self.files else {}
        return {**parts, **files, "shape": self.shape.to_dict(), "seed": self.seed}

    @cached_property
    def files(self) -> dict[str, str]:
        """Field to the contents of the user's own prompts, models and reward function."""
        return task_files(self.config)


@dataclass(frozen=True)
class Trained:
    """How a policy is judged.

    Attributes:
        evaluation: After training.
        untrained: Before it, without texts; ``None`` where an earlier version began the run.
    """

    evaluation: Evaluation
    untrained: dict[str, Any] | None


def chosen_shape(
    config: StudyConfig, file: Path | None, weights: tuple[str, ...], reward_model: object, accepted: str | None = None
) -> Shape:
    """Return the shape of a file, or of ``METHOD=SHARE`` weights over the config's own shape settings.

    Args:
        config: What the policy is trained with.
        file: A ``shape.json``.
        weights: In its place.
        reward_model: What will score the responses; ``None`` does not look whether the file was tuned for it.
        accepted: Its name, where it shall serve though the file was tuned for another one.

    Raises:
        ConfigError: Both or an unknown method are given, a weight is no number, or the file cannot be used.
    """
    if file is not None and weights:
        raise ConfigError("--shape and --weight were both given", "give one of them")
    if file is not None:
        return Shape.load(file, reward_model, accepted)
    mixed = {}
    for weight in weights or ("sparse=1",):
        name, _, share = weight.partition("=")
        try:
            mixed[name] = float(share)
        except ValueError as error:
            raise ConfigError(f"--weight {weight!r} is not METHOD=NUMBER", "write --weight prefix=0.7") from error
    return config.base_shape().with_changes(weights=mixed)


def with_settings_of(config: StudyConfig, file: Path | None, changes: Sequence[str], console: Console) -> StudyConfig:
    """Return the config with the trainer's settings that a shape was found with, and say which they are.

    Args:
        config: What the policy would be trained with.
        file: The ``shape.json``; ``None`` changes nothing.
        changes: ``key=value`` overrides of the user, which stand above the file.
        console: Where to say what is set.

    Raises:
        ConfigError: The file cannot be used, or names a setting that the config's trainer does not have.
    """
    if file is None:
        return config
    own = {change.partition("=")[0].strip() for change in changes}
    found = {name: value for name, value in ShapeFile.read(file).trainer.items() if name not in own}
    for name, value in found.items():
        console.print(f"{escape(printable(f'{name} = {value}'))}, as the shape was found")
    try:
        return with_settings(config, found)
    except ValidationError as error:
        raise ConfigError(
            f"shape file {file}: trainer: {error.errors()[0]['msg']}", "export the shape again, or set it yourself"
        ) from error


def train(run: TrainingRun, task: Task, console: Console) -> Trained:
    """Train to the end, resume where an earlier attempt stopped, and return how the policy is judged.

    Under several processes the first one writes; all return the same.

    Raises:
        ConfigError: The folder holds another run.
        TrialFailed: The run came to nothing; the reason is named.
    """
    started = time.perf_counter()
    check_trackers(run.config.tracking.to)
    _claim(run)
    trainer = PPOTrainer(task, run.shape, run.config.ppo, run.config.sampling, run.seed, run.config.kl_price)
    with closing(trainer):
        return _trained(run, trainer, console, started)


def _trained(run: TrainingRun, trainer: PPOTrainer, console: Console, started: float) -> Trained:
    """Return how the policy is judged after the run's remaining steps."""
    identity = json.dumps(run.identity())
    inner = InnerRun(trainer, run.config.evaluation, run.folder / CHECKPOINT, identity, judges_untrained=True)
    if trainer.processes.rank > 0:
        for _ in inner.steps():
            pass
        return Trained(inner.result(), inner.untrained)
    done, total = len(inner.curve), run.config.ppo.steps
    if done:
        console.print(f"resuming after step {done} of {total}")
    with (
        SummaryWriter(str(run.folder / "tensorboard")) as writer,
        closing(_trackers(run)) as trackers,
        _progress(console) as progress,
    ):
        bar = progress.add_task("training", total=total, completed=done, shown="")
        for point in inner.steps():
            _note(writer, "train", point.step, point.to_dict())
            trackers.log("train", point.to_dict(), point.step)
            shown = f"J {point.objective:6.3f}   reward {point.reward:6.3f}   KL {point.kl_nats:5.1f} nats"
            progress.update(bar, advance=1, shown=shown)
            done += 1
            # A log file has no bar that moves: a tenth of the run is a line.
            if progress.disable and done * LINES // total > (done - 1) * LINES // total:
                console.print(f"step {done} of {total}   {shown}")
        evaluation = inner.result()
        for found in inner.held_out:
            _note(writer, "held_out", found["done_steps"], found)
            trackers.log("held_out", found, found["done_steps"])
        trackers.log("final", evaluation.to_dict(), total)
    _write(run, inner, evaluation, time.perf_counter() - started)
    return Trained(evaluation, inner.untrained)


def _trackers(run: TrainingRun) -> RunTrackers:
    """Return what the run's curve goes to beside TensorBoard, which it always goes to."""
    tracking, folder = run.config.tracking, run.folder
    names = tuple(name for name in tracking.to if name != "tensorboard")
    settings = {"shape": run.shape.to_dict(), "seed": run.seed}
    return RunTrackers(names, tracking.project or run.config.name, folder.name, folder / "tracking", settings)


def show_result(run: TrainingRun, found: Trained, console: Console) -> None:
    """Print how the policy is judged on held-out prompts, before its training and after, and where it is."""
    title = f"{run.shape.describe()}, seed {run.seed}, on held-out prompts"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    shown = {
        "J": "objective",
        "reward": "reward",
        "KL, nats": "kl_nats",
        "gold": "gold_reward",
        "tokens": "response_tokens",
        "entropy, nats": "entropy_nats",
        "distinct pairs": "distinct_bigrams",
    }
    table.add_column("training")
    for column in shown:
        table.add_column(column, justify="right")
    for when, judged in (("before", found.untrained), ("after", found.evaluation.to_dict())):
        if judged is not None:
            values = (judged[name] for name in shown.values())
            table.add_row(when, *("-" if value is None else f"{value:z.3f}" for value in values))
    console.print(table)
    for part in ("policy", "tensorboard"):
        console.print(f"{part:<12} {escape(printable(str(run.folder / part)))}")


def _claim(run: TrainingRun) -> None:
    """Write down what runs in the folder, or refuse a folder in which something else does."""
    run.folder.mkdir(parents=True, exist_ok=True)
    file, mine = run.folder / RUN_FILE, json.loads(json.dumps(run.identity()))
    theirs = json.loads(file.read_text()) if file.exists() else mine
    changed = unlike(mine, theirs)
    if FILES in changed:
        fields = unlike(mine.get(FILES, {}), theirs.get(FILES, {}))
        changed[changed.index(FILES)] = f"contents of {', '.join(fields)}"
    if changed:
        what = ", ".join(changed)
        raise ConfigError(f"the folder {run.folder} holds another run; what differs: {what}", "choose another -o")
    write_json(file, mine)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = TextColumn("{task.fields[shown]}")
    return Progress(*columns, shown, console=console, disable=not console.is_terminal)


def _note(writer: SummaryWriter, group: str, step: int, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if name not in ("step", "done_steps") and value is not None:
            writer.add_scalar(f"{group}/{name}", value, step)


def _write(run: TrainingRun, inner: InnerRun, evaluation: Evaluation, seconds: float) -> None:
    trainer, policy = inner.trainer, run.folder / "policy"
    trainer.policy.save(policy)
    save_tokenizer(trainer.task, policy)
    found = {"evaluation": evaluation.to_dict(), "certificate": trainer.certificate.to_dict()}
    curves = {"curve": inner.curve, "held_out": inner.held_out, "untrained": inner.untrained}
    facts = {"wall_seconds": seconds, "torch": torch.__version__, "processes": trainer.processes.count}
    write_json(run.folder / RESULT, {**run.identity(), **found, **curves, **facts})
    (run.folder / CHECKPOINT).unlink(missing_ok=True)
