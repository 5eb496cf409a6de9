"""Launching a study, or resuming it: from a config's name to a verdict on the screen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from rich.console import Console

from pipeline.commands.display import StudyDisplay
from pipeline.commands.summary import show_places, show_verdict
from pipeline.executors.choose import make_executor
from pipeline.explain.token_rewards import write_token_rewards
from pipeline.export.export import export_winner
from pipeline.report.load import load_report_data
from pipeline.report.page import write_report
from pipeline.study.examined import ExaminedStudy
from pipeline.study.folder import StudyFolder
from pipeline.study.prepared import PreparedStudy, prepared_study
from pipeline.study.progress import CONFIRM, SEARCH, ProgressFile, ended_search_runs, finished_runs
from pipeline.study.study import StudySource
from shaping.errors import ShapetuneError


def launch_study(asked: ExaminedStudy, console: Console) -> StudyFolder:
    """Run a study to its end, print what it found and where, and return its folder.

    The verdict is printed before the report is written, which takes a while: nobody waits for what is known.

    Args:
        asked: The study.
        console: Where to print.

    Raises:
        ShapetuneError: Something the user can act on; nothing that was finished is lost.
    """
    started = time.perf_counter()
    # The cores belong to the trials; the Gaussian process is small.
    with prepared_study(asked, console) as prepared, _one_thread():
        if torch.cuda.is_available():
            from pipeline.commands.gpu_memory import say_fit

            say_fit(prepared.config, console)
        study = _run(prepared, console)
        show_verdict(prepared.config, prepared.folder, study.verdict(), console)
        with console.status("writing report and export"):
            study.keep_sensitivity()
            _write_results(prepared)
    show_places(prepared.config, prepared.folder, console, time.perf_counter() - started)
    return prepared.folder


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run(prepared: PreparedStudy, console: Console) -> StudySource:
    config, folder = prepared.config, prepared.folder
    shown = ProgressFile(folder.progress_file)
    with StudyDisplay(config, console, prepared.models.has_reward_critic, shown) as display:
        display.already(SEARCH, ended_search_runs(config, folder) * config.ppo.steps)
        display.already(CONFIRM, finished_runs(folder.confirm) * config.ppo.steps)
        study = StudySource(prepared, display)
        if not study.finished():
            prepared.note_launch()
            make_executor(config.executor).run(study)
        if not study.finished():
            raise ShapetuneError("the study ended early", "run the same command again to resume it")
        return study


def _write_results(prepared: PreparedStudy) -> None:
    folder = prepared.folder
    if folder.winner_file.exists():
        write_token_rewards(prepared)
        export_winner(folder, folder.export)
    write_report(load_report_data(folder, modelled=True, with_ax=True), folder.report_file)
