"""Sparse PPO and the winner at learning rates of their own: what is chosen, and by what."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import rates
from benchmarks.papers.comparison import Comparison
from benchmarks.papers.field import TUNED, WINNER, Candidate
from benchmarks.papers.runs import saved_runs
from benchmarks.papers.settings import SETTINGS, Setting
from benchmarks.papers.tuning import Tuner, with_lambdas
from pipeline.trials.arm import Arm
from shaping import Shape

# Each token of a response is a pass of the policy.
SHORT = "sampling.response_tokens=6"
SPARSE = Candidate(TUNED, Arm(TUNED, Shape(weights={"sparse": 1.0}, gae_lambda=0.95)))
PREFIX = Candidate(WINNER, Arm(WINNER, Shape(weights={"prefix": 1.0}, gae_lambda=0.7)))


def test_every_lambda_is_tried_and_ones_own_too() -> None:
    tried = with_lambdas(PREFIX, (0.6, 1.0))
    assert [each.arm.shape.gae_lambda for each in tried] == [0.6, 0.7, 1.0]
    assert {tuple(each.arm.shape.active_methods().items()) for each in tried} == {(("prefix", 1.0),)}
    assert len(with_lambdas(SPARSE, (0.6, 0.95 + 1e-12))) == 2


def test_the_tasks_are_those_that_were_tuned() -> None:
    assert all(not SETTINGS[label].like for label in rates.TASKS)


@pytest.mark.slow
@pytest.mark.usefixtures("one_process")
def test_the_best_learning_rate_is_chosen_on_tuning_seeds_and_run_on_fresh_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    along = ("evaluation.every_steps=2", "evaluation.curve_prompts=8", "search.seeds=[0, 1]", SHORT)
    setting, console = Setting("smoke", along, seeds=2, lambdas=(0.8,)), Console(quiet=True)
    tuner = Tuner("smoke", setting, tmp_path / "rates-smoke.csv", 1, "c", console)
    found = {each.entrant: tuner.tuned(each, (0.5, 1.0)) for each in (SPARSE, PREFIX)}
    rate = setting.loaded().ppo.learning_rate
    for candidate in (SPARSE, PREFIX):
        best, mine = found[candidate.entrant], candidate.arm.shape.gae_lambda
        assert set(best.tried) == {(rate * factor, value) for factor in (0.5, 1.0) for value in (0.8, mine)}
        point = (best.learning_rate, best.candidate.arm.shape.gae_lambda)
        assert best.tried[point] == max(best.tried.values())
        assert [run.seed for run in best.runs] == [200, 201] and all(len(run.held_out) > 1 for run in best.runs)
    saved = list(saved_runs(tmp_path / "rates-smoke.csv").values())
    assert len(saved) == 2 * (2 * 2 * 2 + 2)
    # Another learning rate is another run: nothing else of it differs.
    ends = {run.objective for run in saved if (run.entrant, run.gae_lambda, run.seed) == (TUNED, 0.95, 0)}
    assert len(ends) == 2

    runs = {name: each.runs for name, each in found.items()}
    same = Comparison("smoke", setting.loaded(), {TUNED: SPARSE, WINNER: PREFIX}, {}, runs, {})
    told = {claim.name: claim.value for claim in rates.claims_of(same, found)}
    assert told["rates.smoke.gain_over_the_tasks_rate.winner"] == 0
    by_hand = [a.objective - b.objective for a, b in zip(runs[WINNER], runs[TUNED], strict=True)]
    assert told["rates.smoke.gain_over_sparse"] == pytest.approx(sum(by_hand) / 2)
    table = rates.section(same, found)
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith(("| sparse, tuned |", "| winner |"))]
    own = [f"{found[name].learning_rate:.2g}" for name in (TUNED, WINNER)]
    assert [row[1] for row in rows] == [f"{rate:.2g}", own[0], f"{rate:.2g}", own[1]]
    assert table.count("rate by lambda") == 2

    def again(*_: object) -> None:
        raise AssertionError("made twice")

    monkeypatch.setattr("benchmarks.papers.runs.each_done", again)
    assert repr(tuner.tuned(SPARSE, (0.5, 1.0))) == repr(found[TUNED])
