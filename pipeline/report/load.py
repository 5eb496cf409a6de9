"""Reads a study's folder into a report's data; opens no database and no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from pipeline.config.schema import StudyConfig
from pipeline.explain.samples import read_samples
from pipeline.report.data import (
    ArmResult,
    Belief,
    ConfirmedArm,
    Estimate,
    HeldOut,
    ReportData,
    TrialRow,
)
from pipeline.report.provenance import Attempt, read_attempts, read_provenance
from pipeline.report.run_record import merged_certificate, record_of
from pipeline.report.sensitivity import read_sensitivity
from pipeline.runtime.files import read_saved
from pipeline.study.confirm_stage import confirmed_arms
from pipeline.study.folder import StudyFolder
from pipeline.study.verdict import Verdict, untrained_runs
from pipeline.trials.arm import WINNER, Arm
from pipeline.trials.records import FailureRecord, TrialFiles, trial_files
from pipeline.trials.results import RunResult

EVALUATED = ("objective", "reward", "kl_nats", "gold_reward")
CURVES = ("objective", "reward", "kl_nats", "response_tokens", "gold_reward")


def load_report_data(folder: StudyFolder, modelled: bool = False, with_ax: bool = False) -> ReportData:
    """Return what the folder's files say; what is not there yet is empty or ``None``.

    Args:
        folder: The study's.
        modelled: Whether the search's model is fitted once more, which takes seconds, to show what it believes.
        with_ax: Whether Ax's own analyses are made, too, which takes seconds more.

    Raises:
        ConfigError: The study's config cannot be used.
        ShapetuneError: A file of the study is not what shapetune writes; the file is named.
    """
    config = folder.config()
    space = config.make_space()
    baselines = {arm.name for arm in space.baselines()}
    beliefs = read_saved(folder.ranking_file, _beliefs) or {}
    trials = [_trial(files, config, baselines, beliefs) for files in trial_files(folder.trials)]
    arms = confirmed_arms(folder)
    confirmed = _confirmed(arms)
    return ReportData(
        config=config,
        config_yaml=folder.config_file.read_text(encoding="utf-8"),
        trials=tuple(trials),
        winner=folder.winner(),
        verdict=read_saved(folder.verdict_file, Verdict.from_dict),
        confirmed=confirmed,
        untrained=_metrics(untrained_runs({name: runs for name, (_, runs) in arms.items()})),
        confirmation_failures=_confirmation_failures(folder),
        confirmation_attempts=_confirmation_attempts(folder),
        sensitivity=read_saved(folder.sensitivity_file, lambda content: read_sensitivity(content, space)) or (),
        samples=read_saved(folder.tokens_file, read_samples) or (),
        provenance=read_provenance(
            folder.provenance_file,
            folder.models_file,
            [record for trial in trials if not trial.is_taken_over for record in trial.records],
            [record for each in confirmed for record in each.result.records],
        ),
        is_modelled=modelled,
        **_modelled(folder, modelled, with_ax),
    )


def _modelled(folder: StudyFolder, modelled: bool, with_ax: bool) -> dict[str, Any]:
    """Return what a model must be fitted for."""
    if not modelled and not with_ax:
        return {}
    # Ax takes seconds to import.
    from pipeline.analysis.landscape import landscape
    from pipeline.search.ax_analyses import ax_analyses
    from pipeline.study.replay import replayed

    replay = replayed(folder)
    return {
        "landscape": landscape(replay) if modelled else None,
        "analyses": ax_analyses(replay.outer) if with_ax else (),
    }


def _trial(files: TrialFiles, config: StudyConfig, baselines: set[str], beliefs: dict[int, Belief]) -> TrialRow:
    index, record, failure = int(files.folder.name), files.record(), files.failure()
    saved, arm = files.result(), files.arm()
    result = None if saved is None else _result(saved.runs_of(config.search.seeds))
    name = record.arm if record and record.arm else arm.name if arm else f"trial {index}"
    return TrialRow(
        index=index,
        arm=name,
        origin=record.origin if record else "unknown",
        is_baseline=name in baselines,
        is_taken_over=record is not None and record.is_taken_over,
        tried=arm.candidate if arm else None,
        records=result.records if result else tuple(record_of(run) for run in files.runs()),
        attempts=read_attempts(files),
        result=result,
        belief=beliefs.get(index),
        failure=failure,
        stop=files.stop(),
    )


def _result(runs: Sequence[RunResult]) -> ArmResult:
    runs = sorted(runs, key=lambda run: run.seed)
    metrics = _metrics(runs)
    drawn = [name for name in CURVES if all(name in point for run in runs for point in run.curve)]
    curves = {name: tuple(tuple(float(point[name]) for point in run.curve) for run in runs) for name in drawn}
    if all(curves["objective"]):
        metrics["curve_objective"] = Estimate.of([fmean(curve) for curve in curves["objective"]])
    records = tuple(record_of(run) for run in runs)
    certificate = merged_certificate(records)
    assert certificate is not None
    return ArmResult(tuple(record.seed for record in records), metrics, certificate, curves, _held_out(runs), records)


def _metrics(runs: Sequence[RunResult]) -> dict[str, Estimate]:
    found = [name for name in EVALUATED if runs and all(run.measured(name) is not None for run in runs)]
    return {name: Estimate.of([float(run.evaluation[name]) for run in runs]) for name in found}


def _held_out(runs: Sequence[RunResult]) -> HeldOut:
    """Return what was measured at steps that all runs measured at."""
    measured = [{int(point["done_steps"]): point for point in run.held_out} for run in runs]
    steps = sorted(set(measured[0]).intersection(*measured[1:]))
    points = [[run[step] for step in steps] for run in measured]
    found = [name for name in EVALUATED if steps and all(p.get(name) is not None for run in points for p in run)]
    return HeldOut(tuple(steps), {name: tuple(tuple(float(p[name]) for p in run) for run in points) for name in found})


def _beliefs(content: list[dict[str, Any]]) -> dict[int, Belief]:
    return {
        int(row["index"]): Belief(
            float(row["mean"]), float(row["deviation"]), bool(row["from_model"]), bool(row.get("feasible", True))
        )
        for row in content
    }


def _confirmed(arms: Mapping[str, tuple[Arm, list[RunResult]]]) -> tuple[ConfirmedArm, ...]:
    confirmed = [ConfirmedArm(arm, _result(runs)) for arm, runs in arms.values() if runs]
    return tuple(sorted(confirmed, key=lambda c: (c.arm.name != WINNER, -c.result.metrics["objective"].mean)))


def _confirmation_failures(folder: StudyFolder) -> tuple[FailureRecord, ...]:
    failures = (TrialFiles(path).failure() for path in sorted(folder.confirm.glob("*")))
    return tuple(each for each in failures if each is not None)


def _confirmation_attempts(folder: StudyFolder) -> tuple[tuple[str, Attempt], ...]:
    found: list[tuple[str, Attempt]] = []
    for path in sorted(folder.confirm.glob("*")):
        files = TrialFiles(path)
        attempts = read_attempts(files)
        if attempts:
            arm = files.arm()
            # A run that has not ended says its name in its folder's alone.
            found += [(arm.name if arm else path.name.rpartition("-")[0], attempt) for attempt in attempts]
    return tuple(found)
