"""Launching a study, or going on with it: from a config's name to a verdict on the screen."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from pipeline.builtin_configs import find_config
from pipeline.config import StudyConfig, load_config
from pipeline.confirmation import Verdict
from pipeline.display import StudyDisplay
from pipeline.export import export_winner
from pipeline.outer import EARLIER
from pipeline.ppo.evaluation import SampleText
from pipeline.report import load_report_data, write_report
from pipeline.source import Executor
from pipeline.study import Study, confirmation_runs
from pipeline.study_folder import StudyFolder, read_json
from pipeline.summary import show_summary
from pipeline.task_models import build_assets, check_methods, open_task
from pipeline.tasks.registry import load_task
from pipeline.token_rewards import token_rewards
from pipeline.trial import write_json
from pipeline.warm_start import check_warm_start
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
    started = time.perf_counter()
    assets = build_assets(config, console)
    task = open_task(config, assets, console)
    check_methods(config, task)
    reward_critic = task.critic_source is not None
    if config.executor.name != "local":
        # The workers load models of their own; this process needs the memory no more than the time.
        del task
        load_task.cache_clear()
    # From here on the cores belong to the trials; the Gaussian process is small.
    torch.set_num_threads(1)
    folder.create(config)
    with folder.locked():
        verdict = _run(config, folder, assets, reward_critic, console)
        _write_results(config, folder, assets)
    show_summary(config, folder, verdict, console, time.perf_counter() - started)


def _run(
    config: StudyConfig, folder: StudyFolder, assets: Path | None, reward_critic: bool, console: Console
) -> Verdict | None:
    with StudyDisplay(config, console, reward_critic) as display:
        display.already("search", _finished_runs(folder.trials) * config.ppo.steps)
        display.already("confirm", _finished_runs(folder.confirm) * config.ppo.steps)
        study = Study(config, folder, assets, display, reward_critic)
        if not study.finished():
            make_executor(config).run(study)
        if not study.finished():
            raise ShapetuneError("the study ended early", "run the same command again to go on")
        return study.verdict()


def _finished_runs(folder: Path) -> int:
    """Return the finished inner runs; the steps of one that goes on are reported by its job."""
    taken = [path.parent for path in folder.glob("*/trial.json") if read_json(path)["origin"] == EARLIER]
    own = [path for path in folder.glob("*/seed-*.json") if path.parent not in taken]
    return len(own)


def make_executor(config: StudyConfig) -> Executor:
    """Return the executor that the config names."""
    if config.executor.name == "local":
        from pipeline.executors.local import LocalExecutor

        return LocalExecutor()
    from pipeline.executors.ray_tune import RayTuneExecutor

    where = config.executor
    return RayTuneExecutor(where.slots, where.address, where.cpus, where.gpus)


def _write_results(config: StudyConfig, folder: StudyFolder, assets: Path | None) -> None:
    if folder.winner_file.exists():
        if not folder.tokens_file.exists():
            write_json(folder.tokens_file, _explained(config, folder, assets))
        export_winner(folder, folder.export)
    write_report(load_report_data(folder), folder.report_file)


def _explained(config: StudyConfig, folder: StudyFolder, assets: Path | None) -> list[dict[str, Any]]:
    """Return token rewards of the winner's own responses on held-out prompts."""
    runs = confirmation_runs(folder).get("winner") or _search_runs(folder)
    texts = [SampleText(**text) for text in runs[0]["evaluation"]["texts"]] if runs else []
    winner = Shape.from_dict(read_json(folder.winner_file)["shape"])
    return token_rewards(load_task(config.task, "" if assets is None else str(assets)), winner, texts)


def _search_runs(folder: StudyFolder) -> list[dict[str, Any]]:
    name = read_json(folder.winner_file)["name"]
    results = [json.loads(path.read_text()) for path in folder.trials.glob("*/result.json")]
    return [run for result in results if result["arm"]["name"] == name for run in result["runs"]]
