"""One task's comparison: everybody tuned alike on a few seeds, then run on fresh ones."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from rich.console import Console

from benchmarks.papers.field import ENTRANTS, LAMBDAS, SPARSE, TUNED, WINNER, Candidate, candidates, untuned
from benchmarks.papers.runs import COMPLETED, Planned, Run, kept_runs, made, runs_file
from benchmarks.papers.study import study_winner, winner_file
from pipeline.builtin_configs import find_config
from pipeline.config import StudyConfig, load_config
from pipeline.task_models import build_assets
from pipeline.tasks.registry import load_task

# Neither search nor tuning saw them.
FIRST_SEED = 200


@dataclass(frozen=True)
class Setting:
    """A task as it is compared.

    Attributes:
        config: A built-in config's name.
        changes: ``key=value`` overrides of it: what is measured along the way.
        seeds: Fresh ones.
        trials: Of the study whose winner takes part.
        lambdas: That everybody but sparse PPO at its defaults is tuned over.
    """

    config: str
    changes: tuple[str, ...]
    seeds: int
    trials: int
    lambdas: tuple[float, ...] = LAMBDAS


@dataclass(frozen=True)
class Comparison:
    """What came out.

    Attributes:
        label: The task's.
        config: Its config.
        chosen: Everybody's best setting.
        tried: How many settings it is the best of.
        runs: Everybody's runs on fresh seeds.
    """

    label: str
    config: StudyConfig
    chosen: Mapping[str, Candidate]
    tried: Mapping[str, int]
    runs: Mapping[str, list[Run]]


class Unfinished(Exception):
    """Runs are missing that nobody asked to be made."""


def compare(label: str, setting: Setting, workers: int, commit: str, console: Console) -> Comparison:
    """Return a task's comparison, with whatever was not done before made now.

    Raises:
        Unfinished: There are no workers to make what is missing.
    """
    config = load_config(find_config(setting.config), setting.changes)
    assets = build_assets(config, console)
    field = _field(config, assets, setting.lambdas)
    if not workers and not winner_file(label).exists():
        raise Unfinished
    winner = study_winner(setting.config, setting.changes, setting.trials, label, console)

    def planned(chosen: Iterable[Candidate], seeds: Iterable[int]) -> list[Planned]:
        return [Planned(each, seed, config, str(assets or ""), commit) for each in chosen for seed in list(seeds)]

    every = [each for settings in field.values() for each in settings if len(settings) > 1]
    tuning = _made(planned(every, config.search.seeds), label, "tuning", workers)
    chosen = {name: _best(settings, tuning) for name, settings in field.items()}
    chosen |= {SPARSE: untuned(config), WINNER: winner}
    fresh = range(FIRST_SEED, FIRST_SEED + setting.seeds)
    tested = _made(planned(chosen.values(), fresh), label, "fresh seeds", workers)
    runs = {name: sorted(tested[_key(each)], key=lambda run: run.seed) for name, each in chosen.items()}
    tried = {name: len(settings) for name, settings in field.items()} | {SPARSE: 1, WINNER: setting.trials}
    return Comparison(label, config, chosen, tried, runs)


Key = tuple[str, float, str]


def _key(candidate: Candidate) -> Key:
    return candidate.entrant, candidate.arm.shape.gae_lambda, candidate.arm.critic or ""


def _field(config: StudyConfig, assets: Path | None, lambdas: tuple[float, ...]) -> dict[str, list[Candidate]]:
    """Return everybody's settings, by name; who cannot be served does not take part."""
    task = load_task(config.task, "" if assets is None else str(assets))
    found = {entrant.name: candidates(entrant, config, task, lambdas) for entrant in ENTRANTS}
    # The workers load models of their own.
    load_task.cache_clear()
    return {name: settings for name, settings in found.items() if settings}


def _made(planned: list[Planned], label: str, stage: str, workers: int) -> dict[Key, list[Run]]:
    found: dict[Key, list[Run]] = {_key(each.candidate): [] for each in planned}
    done = set(kept_runs(runs_file(label)))
    left = sum(each.job not in done for each in planned)
    if left and not workers:
        raise Unfinished
    for count, run in enumerate(made(planned, runs_file(label), workers), 1):
        found[run.entrant, run.gae_lambda, run.critic].append(run)
        if count > len(planned) - left:
            told = f"J {run.objective:.3f}" if run.state == COMPLETED else run.state
            print(f"{label}, {stage}: {count} of {len(planned)}: {run.entrant}: {told}", file=sys.stderr, flush=True)
    return found


def _best(settings: list[Candidate], tuning: Mapping[Key, list[Run]]) -> Candidate:
    """Return the setting with the best mean J over the tuning seeds; one that lost a seed comes last."""
    if len(settings) == 1:
        return settings[0]
    return max(settings, key=lambda each: _mean_objective(tuning[_key(each)]))


def _mean_objective(runs: list[Run]) -> float:
    return fmean(run.objective if run.state == COMPLETED else -math.inf for run in runs)


def is_complete(comparison: Comparison) -> bool:
    """Return whether there is anything to compare: a winner and its rival that finished a common seed."""
    finished = [{run.seed for run in comparison.runs[name] if run.state == COMPLETED} for name in (WINNER, TUNED)]
    return bool(finished[0] & finished[1])
