"""The chaos benchmark: one short round of it, and that it would notice what it looks for."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.chaos import KINDS, Chaos, Round, one_round
from benchmarks.cheap_trainer import value
from pipeline.trainers.base import TrainingJob
from shaping.shape import Shape
from tests.support.servers.commands import Command

TRIALS = 10


def forked(chaos: Chaos) -> Command:
    """The driver, without the seconds in which it imports libraries: it is launched again after each kill."""
    return Command("launch", str(chaos._config), "--studies", str(chaos._place / "studies"))


@pytest.mark.slow
def test_a_study_whose_workers_driver_and_nodes_are_killed_finds_what_every_trial_is_worth(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Chaos, "_launch", forked)
    found = one_round(TRIALS, seed=1)
    assert found.lost(TRIALS) == 0 and found.doubled() == 0
    assert sum(found.kills.values()) > 0 and set(found.kills) <= set(KINDS)
    assert found.launches >= 1 + found.kills["driver"]
    assert {name.split()[0].split("/")[1] for name in found.steps} == {str(index) for index in range(TRIALS)}


def test_lost_and_doubled_trials_are_counted() -> None:
    whole = Counter({f"trials/{trial} 0 {step}": 1 for trial in range(3) for step in range(6)})
    trials = {index: (f"shape {index}", 1.0) for index in range(3)}
    assert (Round(trials, whole).lost(3), Round(trials, whole).doubled()) == (0, 0)
    assert Round({0: ("a", 1.0)}, whole).lost(3) == 2
    # One step made again is what a kill between a step and its note costs; two from the beginning on are a second run.
    assert Round(trials, whole + Counter({"trials/1 0 0": 1})).doubled() == 0
    assert Round(trials, whole + Counter({"trials/1 0 4": 1})).doubled() == 0
    assert Round(trials, whole + Counter({"trials/1 0 0": 1, "trials/1 0 1": 1})).doubled() == 1
    assert Round({**trials, 2: ("shape 0", 1.0)}, whole).doubled() == 1


def test_what_a_cheap_trial_finds_depends_on_shape_seed_and_step_alone(tmp_path: object) -> None:
    def job(seed: int, **shape: object) -> TrainingJob:
        return TrainingJob("any", Shape(**shape), seed, 6, 0, tmp_path, {})  # type: ignore[arg-type]

    prefix = {"weights": {"prefix": 1.0}}
    assert value(job(0, **prefix), 3) == value(job(0, **prefix), 3)
    assert len({value(job(seed, **prefix), step) for seed in (0, 1) for step in (2, 3)}) == 4
    assert value(job(0, **prefix), 3) > value(job(0), 3) + 0.5
