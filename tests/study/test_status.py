"""What the command line says of a study's trials, and at its end, from the files of its folder alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.study.confirm_stage import confirmation_runs
from pipeline.study.status import read_status
from pipeline.study.verdict import judge
from pipeline.trials.arm import Arm
from shaping.certificate import Certificate
from tests.support.trial_files import EARLY, SHAPE, Trials


@pytest.fixture
def trials(tmp_path: Path) -> Trials:
    return Trials(tmp_path / "study")


def test_every_state_stands_in_the_rows_and_they_are_plain_json(trials: Trials) -> None:
    trials.all_kinds()
    rows = read_status(trials.folder)
    assert json.loads(json.dumps(rows)) == rows
    assert [row["state"] for row in rows] == ["completed", "completed", "stopped", "failed", "running"]
    assert [row["origin"] for row in rows] == ["baseline", "earlier study", "model", "sobol", "model"]
    assert [row["J"] for row in rows] == [0.5, 0.5, None, None, None]
    assert len({frozenset(row) for row in rows}) == 1
    assert all(row["shape"] == SHAPE.to_dict() for row in rows)


def test_a_stopped_trial_shows_what_it_was_on_its_way_to_and_never_as_measured(trials: Trials) -> None:
    trials.all_kinds()
    stopped = read_status(trials.folder)[2]
    assert (stopped["projected_J"], stopped["projected_J_deviation"]) == (-0.125, 0.0625)
    # 10 steps of each of 2 seeds.
    assert (stopped["steps"], stopped["total_steps"]) == (14, 20)
    assert stopped["J"] is None and stopped["J_standard_error"] is None
    assert stopped["reason"] == "stopped after 14 of 20 steps, on its way to J -0.125 ± 0.062"
    assert stopped["reason"] in trials.shown()


def test_a_seed_that_fails_after_its_trial_was_stopped_changes_nothing(trials: Trials) -> None:
    trials.write(0, "model", stopped=EARLY, failure={"reason": "kl_limit", "detail": "KL ran away"})
    assert read_status(trials.folder)[0]["state"] == "stopped"


def test_a_projection_is_never_the_best_observed(trials: Trials) -> None:
    trials.all_kinds()
    trials.write(5, "model", stopped={**EARLY, "objective": 9.0})
    assert "best observed J so far: +0.500, trial 0" in trials.shown()


def test_the_table_shows_shapes_and_reasons_as_they_were_written(trials: Trials) -> None:
    trials.all_kinds()
    shown = trials.shown()
    assert shown.count("0.75 prefix + 0.25 sparse, lambda 0.80") == 5
    assert "earlier study" in shown
    assert "nan: loss [/red] is nan" in shown


def test_a_study_without_trials_says_so(trials: Trials) -> None:
    assert "no trial has started yet" in trials.shown()


def test_the_end_of_a_launch_counts_what_was_stopped(trials: Trials) -> None:
    trials.all_kinds()
    assert "1 of 5 trials was stopped early." in trials.summed_up()
    trials.write(5, "model", stopped=EARLY)
    assert "2 of 6 trials were stopped early." in trials.summed_up()


def test_without_early_stopping_the_end_of_a_launch_does_not_speak_of_it(trials: Trials) -> None:
    trials.write(0, "model")
    assert "stopped" not in trials.summed_up()


def confirm(trials: Trials, certificate: dict[str, Any]) -> None:
    for name, level in (("winner", 0.5), ("sparse", 0.25), ("place 2, 4_0", 0.75)):
        for seed in (100, 101):
            evaluation = {"objective": level + seed % 2, "reward": level, "kl_nats": 2.0, "gold_reward": None}
            curve = [{"objective": level * step} for step in range(10)]
            run = {"seed": seed, "evaluation": evaluation, "curve": curve, "certificate": certificate}
            if name == "sparse":
                run["untrained"] = {**evaluation, "objective": 0.125, "kl_nats": -1e-9}
            path = trials.folder.confirm_folder(name, seed)
            path.mkdir(parents=True)
            (path / "result.json").write_text(json.dumps({"runs": [run], "arm": Arm(name, SHAPE).to_dict()}))


@pytest.mark.parametrize(
    ("error", "responses", "said"),
    [(1e-7, 8, "kept in every run"), (0.5, 8, "SUMS BROKEN: winner; "), (0.0, 0, "nothing checked")],
)
def test_the_summary_says_of_sums_what_was_seen(trials: Trials, error: float, responses: int, said: str) -> None:
    confirm(trials, Certificate(error, responses, 1.0, {"prefix": True}).to_dict())
    (line,) = [
        line
        for line in trials.summed_up(judge("0_0", confirmation_runs(trials.folder))).splitlines()
        if line.startswith("sums ")
    ]
    assert said in line


def test_the_table_of_confirmed_arms_takes_runners_up(trials: Trials) -> None:
    confirm(trials, Certificate(1e-7, 8, 1.0, {"prefix": True}).to_dict())
    verdict = judge("0_0", confirmation_runs(trials.folder))
    lines = trials.summed_up(verdict).splitlines()
    rows = [line for line in lines if line.startswith(("winner  ", "place 2, 4_0  ", "sparse  "))]
    # The winner first, then by J; nothing is claimed of the runner-up.
    assert [row.split("  ")[0] for row in rows] == ["winner", "place 2, 4_0", "sparse"]
    before = lines[lines.index(rows[-1]) + 1]
    assert before.split() == ["before", "training", "0.125", "±", "0.000", "0.250", "±", "0.000", "0.0", "±", "0.0"]
    assert "1.250 ± 0.500" in rows[1] and not any("gold" in line for line in lines)
    assert not any("against place 2" in line for line in lines)
    assert [difference.rival for difference in verdict.differences] == ["sparse"]
