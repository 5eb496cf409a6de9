"""Launching a study, or going on with it: from a config's name to a verdict on the screen."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from pipeline.commands.display import StudyDisplay
from pipeline.commands.summary import show_summary
from pipeline.config.load import find_config, load_config
from pipeline.config.schema import StudyConfig
from pipeline.explain.token_rewards import token_rewards, winner_texts
from pipeline.export.export import export_winner
from pipeline.report.load import load_report_data
from pipeline.report.page import write_report
from pipeline.runtime.files import read_kept, write_json
from pipeline.runtime.signals import interruption
from pipeline.storage.database import locked, study_database
from pipeline.study.folder import StudyFolder
from pipeline.study.progress import ProgressFile
from pipeline.study.provenance import check_own_files, note_launch, own_files
from pipeline.study.status import is_taken_over
from pipeline.study.study import Study
from pipeline.study.verdict import Verdict
from pipeline.study.warm_start import check_warm_start
from pipeline.tasks.registry import load_task
from pipeline.trainers.custom import find_trainer
from pipeline.trials.task_models import build_assets, check_methods, open_task
from pipeline.trials.types import Executor
from shaping.errors import ShapetuneError
from shaping.shape import Shape


def launch_study(name: str, changes: tuple[str, ...], studies: Path, console: Console) -> None:
    """Run a study to its end and print what it found and where.

    Args:
        name: A config's path or a built-in config's name.
        changes: ``key=value`` overrides.
        studies: The folder that studies are kept in.
        console: Where to print.

    Raises:
        ShapetuneError: Something the user can act on; nothing that was finished is lost.
    """
    config = load_config(find_config(name), changes)
    folder = StudyFolder(studies / config.name)
    folder.check(config)
    check_warm_start(config)
    files = own_files(config)
    for field in check_own_files(folder, files):
        console.print(f"{field}: its code has changed since the last launch; runs that have ended keep what they found")
    started = time.perf_counter()

    def standing(signal: str) -> str:
        done = _finished_runs(folder.trials) + _finished_runs(folder.confirm)
        return f"stopped by {signal} with {done} runs finished; nothing of them is lost"

    with interruption(standing, "the same command goes on, with those that had begun from their last checkpoints"):
        # First what may be refused at once: a database that cannot be reached, or whose study runs elsewhere.
        with locked(study_database(config.storage, folder.root), config.name):
            verdict = _launched(config, folder, files, console)
    show_summary(config, folder, verdict, console, time.perf_counter() - started)


def _launched(config: StudyConfig, folder: StudyFolder, files: dict[str, str], console: Console) -> Verdict | None:
    assets, reward_critic, quality = _prepared(config, console)
    # From here on the cores belong to the trials; the Gaussian process is small.
    torch.set_num_threads(1)
    folder.create(config)
    with folder.locked():
        if quality:
            write_json(folder.models_file, quality)
        with StudyDisplay(config, console, reward_critic, ProgressFile(folder.progress_file)) as display:
            display.already("search", _ended_search_runs(config, folder) * config.ppo.steps)
            display.already("confirm", _finished_runs(folder.confirm) * config.ppo.steps)
            verdict = _run(config, Study(config, folder, assets, display, reward_critic), files)
        _write_results(config, folder, assets)
        return verdict


def _prepared(config: StudyConfig, console: Console) -> tuple[Path | None, bool, dict[str, float]]:
    """Return the folder of what the task built once, whether a critic can start as its reward model, and its facts."""
    if config.trainer is not None:
        find_trainer(config.trainer.function)
        return None, False, {}
    assets = build_assets(config, console)
    task = open_task(config, assets, console)
    check_methods(config, task)
    if config.executor.name != "local":
        # The workers load models of their own; this process needs the memory no more than the time.
        load_task.cache_clear()
    return assets, task.critic_source is not None, task.quality


def _run(config: StudyConfig, study: Study, files: dict[str, str]) -> Verdict | None:
    if not study.finished():
        note_launch(study.folder, files)
        make_executor(config).run(study)
    if not study.finished():
        raise ShapetuneError("the study ended early", "run the same command again to go on")
    return study.verdict()


def _finished_runs(folder: Path) -> int:
    """Return the finished inner runs; the steps of one that goes on are reported by its job."""
    return sum(_seeds_done(trial) for trial in _own_trials(folder))


def _ended_search_runs(config: StudyConfig, folder: StudyFolder) -> int:
    """Return the search's runs that need not be made any more: those of a trial that was given up will never be."""
    trials = _own_trials(folder.trials)
    given_up = [path for path in trials if any((path / f"{how}.json").exists() for how in ("stopped", "failure"))]
    return len(given_up) * len(config.search.seeds) + sum(_seeds_done(path) for path in trials if path not in given_up)


def _own_trials(folder: Path) -> list[Path]:
    """Return the folders of trials or confirmation runs, without results that were taken over."""
    made = {path.parent: read_kept(path, is_taken_over) for path in folder.glob("*/trial.json")}
    return [path for path in folder.glob("*") if not made.get(path)]


def _seeds_done(trial: Path) -> int:
    return len(list(trial.glob("seed-*.json")))


def make_executor(config: StudyConfig) -> Executor:
    """Return the executor that the config names."""
    if config.executor.name == "local":
        from pipeline.executors.local import LocalExecutor

        return LocalExecutor(config.executor.retries, config.executor.stall_minutes)
    from pipeline.executors.ray_tune import RayTuneExecutor

    where = config.executor
    return RayTuneExecutor(
        where.slots,
        where.address,
        where.cpus,
        where.gpus,
        retries=where.retries,
        stall_minutes=where.stall_minutes,
    )


def _write_results(config: StudyConfig, folder: StudyFolder, assets: Path | None) -> None:
    if folder.winner_file.exists():
        if not folder.tokens_file.exists():
            write_json(folder.tokens_file, _explained(config, folder, assets))
        export_winner(folder, folder.export)
    write_report(load_report_data(folder, modelled=True, with_ax=True), folder.report_file)


def _explained(config: StudyConfig, folder: StudyFolder, assets: Path | None) -> list[dict[str, Any]]:
    """Return token rewards of the winner's own responses on held-out prompts."""
    if config.trainer is not None:
        return []
    winner = read_kept(folder.winner_file, lambda kept: Shape.from_dict(kept["shape"]))
    assert winner is not None
    task = load_task(config.task, "" if assets is None else str(assets))
    return token_rewards(task, winner, winner_texts(folder))
