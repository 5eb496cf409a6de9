"""One task's comparison: every method tuned alike on a few seeds, then run on fresh ones."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from rich.console import Console

from benchmarks.papers.field import ALONE, ENTRANTS, SPARSE, TUNED, WINNER, Candidate, candidates, imaginable, untuned
from benchmarks.papers.runs import COMPLETED, Planned, Run, made, runs_file, saved_runs
from benchmarks.papers.settings import Setting
from benchmarks.papers.study import study_winner, winner_file
from pipeline.config.schema import StudyConfig
from pipeline.tasks.registry import load_task
from pipeline.trials.task_models import assets_location, build_assets

# Neither search nor tuning saw them.
FIRST_SEED = 200


# Entrant, lambda, critic.
Key = tuple[str, float, str]


@dataclass(frozen=True)
class Comparison:
    """What came out.

    Attributes:
        label: The task's.
        config: Its config.
        chosen: Every method's best setting.
        tried: How many settings it is the best of.
        runs: Every method's runs on fresh seeds.
        tuning: The runs that the settings were chosen by.
    """

    label: str
    config: StudyConfig
    chosen: Mapping[str, Candidate]
    tried: Mapping[str, int]
    runs: Mapping[str, list[Run]]
    tuning: Mapping[Key, list[Run]]

    def best_alone(self) -> str:
        """Return the single dense method that was best where every method was tuned: chosen before the fresh seeds.

        Where nobody was, the one that is best on them: the comparison with it then flatters it.
        """
        single = [name for name in self.chosen if name in ALONE]
        chosen_by = {name: self.tuning.get(key(self.chosen[name]), self.runs[name]) for name in single}
        return max(single, key=lambda name: mean_objective(chosen_by[name]))


class Unfinished(Exception):
    """Runs are missing that nobody asked to be made."""


@dataclass(frozen=True)
class Chosen:
    """Every method's setting, how many it is the best of, and the runs that it was chosen by."""

    settings: Mapping[str, Candidate]
    tried: Mapping[str, int]
    tuning: Mapping[Key, list[Run]]


class Maker:
    """Makes the runs of one task.

    Args:
        label: The task's.
        setting: How it is compared.
        workers: Runs side by side; 0 makes none.
        commit: Of the code.
        console: Where a study and the building of models print.
    """

    def __init__(self, label: str, setting: Setting, workers: int, commit: str, console: Console) -> None:
        self._label, self._setting, self._workers = label, setting, workers
        self._commit, self._console = commit, console
        self.config = setting.loaded()
        # Models take up to half an hour to build, and what is saved can be shown without.
        self._assets = build_assets(self.config, console) if workers else assets_location(self.config)

    def tuned(self) -> Chosen:
        """Return what is best on the tuning seeds, and the winner of a study that had the same seeds.

        Raises:
            Unfinished: There are no workers to make what is missing.
        """
        setting, label = self._setting, self._label
        if not self._workers and not winner_file(label).exists():
            raise Unfinished
        field = self._field() if self._workers else self._saved_field()
        winner = study_winner(setting, label, self._commit, self._console)
        every = [each for settings in field.values() for each in settings if len(settings) > 1]
        config = setting.loaded(*setting.tuning)
        tuning = self.made(every, config.search.seeds, "tuning", config)
        chosen = {name: _best(settings, tuning) for name, settings in field.items()}
        tried = {name: len(settings) for name, settings in field.items()}
        taken = {SPARSE: untuned(self.config), WINNER: winner}
        return Chosen(chosen | taken, tried | {SPARSE: 1, WINNER: setting.trials}, tuning)

    def made(
        self, chosen: Iterable[Candidate], seeds: Iterable[int], stage: str, config: StudyConfig | None = None
    ) -> dict[Key, list[Run]]:
        """Return the runs of each candidate, under the comparison's config or another one.

        Raises:
            Unfinished: There are no workers to make what is missing.
        """
        return _made(self._planned(chosen, seeds, config or self.config), self._label, stage, self._workers)

    def _planned(self, chosen: Iterable[Candidate], seeds: Iterable[int], config: StudyConfig) -> list[Planned]:
        every, assets = list(chosen), str(self._assets or "")
        return [Planned(each, seed, config, assets, self._commit) for seed in seeds for each in every]

    def _field(self) -> dict[str, list[Candidate]]:
        """Return every method's settings, by name; one that cannot be served does not take part."""
        task = load_task(self.config.task, str(self._assets or ""))
        found = {each.name: candidates(each, self.config, task, self._setting.lambdas) for each in ENTRANTS}
        # The workers load models of their own.
        load_task.cache_clear()
        return {name: settings for name, settings in found.items() if settings}

    def _saved_field(self) -> dict[str, list[Candidate]]:
        """Return the settings, by name, whose tuning runs are all saved."""
        saved, config = saved_runs(runs_file(self._label)), self._setting.loaded(*self._setting.tuning)
        found = dict[str, list[Candidate]]()
        for each in ENTRANTS:
            for one in imaginable(each, self.config, self._setting.lambdas):
                if all(run.job in saved for run in self._planned([one], config.search.seeds, config)):
                    found.setdefault(each.name, []).append(one)
        return found


def compare(
    label: str, setting: Setting, workers: int, commit: str, console: Console, like: Comparison | None = None
) -> Comparison:
    """Return a task's comparison, with whatever was not done before made now.

    Args:
        label: The task's.
        setting: How it is compared.
        workers: Runs side by side; 0 makes none.
        commit: Of the code.
        console: Where a study and the building of models print.
        like: The comparison that ``setting.like`` names.

    Raises:
        Unfinished: There are no workers to make what is missing.
    """
    maker = Maker(label, setting, workers, commit, console)
    chosen = maker.tuned() if like is None else taken_over(like, setting.names, maker.config)
    fresh = range(FIRST_SEED, FIRST_SEED + setting.seeds)
    tested = maker.made(chosen.settings.values(), fresh, "fresh seeds")
    runs = {name: sorted(tested[key(each)], key=lambda run: run.seed) for name, each in chosen.settings.items()}
    return Comparison(label, maker.config, chosen.settings, chosen.tried, runs, chosen.tuning)


def taken_over(like: Comparison, names: Sequence[str], config: StudyConfig) -> Chosen:
    """Return what was chosen on another task, closed as this one asks for: its responses may end early."""
    closure = config.shape.closure
    chosen = {name: like.chosen[name] for name in names}
    settings = {
        name: replace(each, arm=replace(each.arm, shape=each.arm.shape.with_changes(closure=closure)))
        for name, each in chosen.items()
    }
    return Chosen(settings, {name: 0 for name in names}, {})


def key(candidate: Candidate) -> Key:
    """Return what a candidate's runs are found by."""
    return candidate.entrant, candidate.arm.shape.gae_lambda, candidate.arm.critic or ""


def _made(planned: list[Planned], label: str, stage: str, workers: int) -> dict[Key, list[Run]]:
    found: dict[Key, list[Run]] = {key(each.candidate): [] for each in planned}
    done = set(saved_runs(runs_file(label)))
    left = sum(each.job not in done for each in planned)
    if left and not workers:
        raise Unfinished
    for count, run in enumerate(made(planned, runs_file(label), workers), 1):
        found[run.entrant, run.gae_lambda, run.critic].append(run)
        if count > len(planned) - left:
            print(
                f"{label}, {stage}: {count} of {len(planned)}: {run.entrant}: {run.told()}", file=sys.stderr, flush=True
            )
    return found


def _best(settings: list[Candidate], tuning: Mapping[Key, list[Run]]) -> Candidate:
    """Return the setting with the best mean J over the tuning seeds; one that lost a seed comes last."""
    if len(settings) == 1:
        return settings[0]
    return max(settings, key=lambda each: mean_objective(tuning[key(each)]))


def mean_objective(runs: Sequence[Run]) -> float:
    """Return the mean J of runs; minus infinity where one came to nothing."""
    return fmean(run.objective if run.state == COMPLETED else -math.inf for run in runs)


def is_complete(comparison: Comparison) -> bool:
    """Return whether there is anything to compare: a winner and its rival that finished a common seed."""
    finished = [{run.seed for run in comparison.runs[name] if run.state == COMPLETED} for name in (WINNER, TUNED)]
    return bool(finished[0] & finished[1])
