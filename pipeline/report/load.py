"""Reads a study's folder into a report's data; opens no database and no model."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from pipeline.config.schema import StudyConfig
from pipeline.explain.samples import TokenRow, TokenSample
from pipeline.report.data import (
    ArmResult,
    Belief,
    ConfirmedArm,
    EarlyStop,
    Estimate,
    Failure,
    HeldOut,
    ReportData,
    TrialRow,
)
from pipeline.report.provenance import Attempt, read_attempts, read_provenance
from pipeline.report.run_record import RunRecord, merged_certificate, read_record
from pipeline.report.sensitivity import read_sensitivity
from pipeline.runtime.files import read_kept
from pipeline.study.folder import StudyFolder
from pipeline.study.verdict import WINNER, Difference, Verdict, untrained_runs
from pipeline.trials.arm import Arm
from shaping.shape import Shape

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
    beliefs = read_kept(folder.ranking_file, _beliefs) or {}
    trials = [_trial(path, config, baselines, beliefs) for path in folder.trials.glob("*") if path.name.isdigit()]
    arms, runs = _fresh_runs(folder)
    confirmed = _confirmed(arms, runs)
    return ReportData(
        config=config,
        config_yaml=folder.config_file.read_text(encoding="utf-8"),
        trials=tuple(sorted(trials, key=lambda trial: trial.index)),
        winner=read_kept(folder.winner_file, Arm.from_dict),
        verdict=read_kept(folder.verdict_file, _verdict),
        confirmed=confirmed,
        untrained=_metrics(untrained_runs(runs)),
        confirmation_failures=_confirmation_failures(folder),
        confirmation_attempts=_confirmation_attempts(folder),
        sensitivity=read_kept(folder.sensitivity_file, lambda content: read_sensitivity(content, space)) or (),
        samples=read_kept(folder.tokens_file, _samples) or (),
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
    from pipeline.analysis.replay import replayed
    from pipeline.search.ax_analyses import ax_analyses

    replay = replayed(folder)
    return {
        "landscape": landscape(replay) if modelled else None,
        "analyses": ax_analyses(replay.outer) if with_ax else (),
    }


def _trial(path: Path, config: StudyConfig, baselines: set[str], beliefs: dict[int, Belief]) -> TrialRow:
    index = int(path.name)
    made = read_kept(path / "trial.json", _made) or {}
    failure = read_kept(path / "failure.json", _failure)
    result = read_kept(path / "result.json", lambda content: _result(_searched(content["runs"], config)))
    arm = read_kept(path / "result.json", _arm) or read_kept(path / "failure.json", _arm)
    shape = arm.shape if arm else read_kept(path / "trial.json", _shape)
    name = str(made.get("arm") or (arm.name if arm else f"trial {index}"))
    return TrialRow(
        index=index,
        arm=name,
        origin=str(made.get("origin", "unknown")),
        is_baseline=name in baselines,
        shape=shape,
        records=result.records if result else _finished(path),
        attempts=read_attempts(path),
        result=result,
        belief=beliefs.get(index),
        failure=failure,
        stop=read_kept(path / "stopped.json", _stop),
    )


def _finished(path: Path) -> tuple[RunRecord, ...]:
    """Return the records of the seeds that ended in a trial that has no result, or none yet."""
    records = (read_kept(file, read_record) for file in path.glob("seed-*.json"))
    return tuple(sorted((record for record in records if record), key=lambda record: record.seed))


def _searched(runs: list[dict[str, Any]], config: StudyConfig) -> list[dict[str, Any]]:
    """Return the runs that the search looked at: a trial of an earlier study may have had more seeds."""
    return [run for run in runs if int(run["seed"]) in config.search.seeds]


def _made(content: dict[str, Any]) -> dict[str, Any]:
    return {**content, "arm": str(content["arm"]), "origin": str(content["origin"])}


def _shape(content: dict[str, Any]) -> Shape | None:
    return Shape.from_dict(content["shape"]) if content.get("shape") else None


def _stop(content: dict[str, Any]) -> EarlyStop:
    curve = tuple(float(value) for value in content["curve"])
    return EarlyStop(int(content["steps"]), float(content["objective"]), float(content["deviation"]), curve)


def _arm(content: dict[str, Any]) -> Arm:
    return Arm.from_dict(content["arm"])


def _failure(content: dict[str, Any]) -> Failure:
    return Failure(str(content["arm"]["name"]), str(content["reason"]), str(content["detail"]))


def _result(runs: list[dict[str, Any]]) -> ArmResult:
    runs = sorted(runs, key=lambda run: int(run["seed"]))
    metrics = _metrics(runs)
    drawn = [name for name in CURVES if all(name in point for run in runs for point in run["curve"])]
    curves = {name: tuple(tuple(float(point[name]) for point in run["curve"]) for run in runs) for name in drawn}
    if all(curves["objective"]):
        metrics["curve_objective"] = Estimate.of([fmean(curve) for curve in curves["objective"]])
    records = tuple(read_record(run) for run in runs)
    certificate = merged_certificate(records)
    assert certificate is not None
    return ArmResult(tuple(record.seed for record in records), metrics, certificate, curves, _held_out(runs), records)


def _metrics(runs: list[dict[str, Any]]) -> dict[str, Estimate]:
    found = [name for name in EVALUATED if runs and all(run["evaluation"].get(name) is not None for run in runs)]
    return {name: Estimate.of([float(run["evaluation"][name]) for run in runs]) for name in found}


def _held_out(runs: list[dict[str, Any]]) -> HeldOut:
    """Return what was measured at steps that all runs measured at."""
    measured = [{int(point["done_steps"]): point for point in run.get("held_out") or []} for run in runs]
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


def _verdict(content: dict[str, Any]) -> Verdict:
    return Verdict(
        winner=content["winner"],
        differences=tuple(_difference(values) for values in content["differences"]),
        tuned_rival=content["tuned_rival"],
        steps_to_level={arm: None if n is None else int(n) for arm, n in content["steps_to_level"].items()},
        total_steps=int(content["total_steps"]),
        text=tuple(map(str, content["text"])),
    )


def _difference(values: dict[str, Any]) -> Difference:
    numbers = {name: float(value) for name, value in values.items() if name not in ("rival", "seeds")}
    return Difference(rival=str(values["rival"]), seeds=int(values["seeds"]), **numbers)


def _fresh_runs(folder: StudyFolder) -> tuple[dict[str, Arm], dict[str, list[dict[str, Any]]]]:
    """Return each confirmed arm and its runs, by its name."""
    arms: dict[str, Arm] = {}
    runs: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.confirm.glob("*/result.json")):
        arm = read_kept(path, _arm)
        # One whose certificate was refused is a failure, here as for the verdict.
        if arm is not None and not (path.parent / "failure.json").exists():
            arms[arm.name] = arm
            runs.setdefault(arm.name, []).extend(read_kept(path, lambda content: content["runs"]) or [])
    return arms, runs


def _confirmed(arms: dict[str, Arm], runs: dict[str, list[dict[str, Any]]]) -> tuple[ConfirmedArm, ...]:
    confirmed = [ConfirmedArm(arms[name], _result(results)) for name, results in runs.items() if results]
    return tuple(sorted(confirmed, key=lambda c: (c.arm.name != WINNER, -c.result.metrics["objective"].mean)))


def _confirmation_failures(folder: StudyFolder) -> tuple[Failure, ...]:
    failures = (read_kept(path, _failure) for path in sorted(folder.confirm.glob("*/failure.json")))
    return tuple(failure for failure in failures if failure is not None)


def _confirmation_attempts(folder: StudyFolder) -> tuple[tuple[str, Attempt], ...]:
    found: list[tuple[str, Attempt]] = []
    for path in sorted({file.parent for file in folder.confirm.glob("*/failures-*.jsonl")}):
        arm = read_kept(path / "result.json", _arm)
        failure = read_kept(path / "failure.json", _failure)
        # A run that has not ended says its name in its folder's alone.
        name = arm.name if arm else failure.arm if failure else path.name.rpartition("-")[0]
        found += [(name, attempt) for attempt in read_attempts(path)]
    return tuple(found)


def _samples(content: list[dict[str, Any]]) -> tuple[TokenSample, ...]:
    return tuple(_sample(values) for values in content)


def _sample(values: dict[str, Any]) -> TokenSample:
    tokens = tuple(str(token) for token in values["tokens"])
    rows = [TokenRow(method, tuple(float(v) for v in rewards)) for method, rewards in values["rewards"].items()]
    uneven = [row.method for row in rows if len(row.rewards) != len(tokens)]
    if uneven:
        raise ValueError(f"{', '.join(uneven)}: not one reward for each of {len(tokens)} tokens")
    rows.sort(key=lambda row: row.method != WINNER)
    return TokenSample(str(values["prompt"]), tokens, float(values["score"]), tuple(rows))
