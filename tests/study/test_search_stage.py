"""The search as a source of jobs: seeds side by side, failures, trials that stop early. Nothing is trained here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.runtime.files import read_json, write_json
from pipeline.search.proposal import Proposal
from pipeline.study.running_trial import RunningTrial
from pipeline.study.search_stage import SearchStage
from pipeline.trials.records import TrialFiles
from pipeline.trials.types import Ending, Job, Progress
from search_spaces import Candidate
from shaping.shape import Shape
from tests.support.search_stages import config_of, level, run_of, stage_of, tell

STOPPING = {"worst_percent": 50, "least_share": 0.5, "least_trials": 3}


def ask(stage: SearchStage) -> Job:
    job = stage.ask()
    assert job is not None
    return job


def test_seeds_of_a_trial_are_handed_out_before_the_next_trial(tmp_path: Path) -> None:
    stage = stage_of(config_of(seeds=(4, 2, 7)), tmp_path)
    jobs = [ask(stage) for _ in range(7)]
    assert [(job.index, job.seeds) for job in jobs] == [(i, (seed,)) for i in range(2) for seed in (4, 2, 7)] + [
        (2, (4,))
    ]
    assert {job.folder for job in jobs[:3]} == {str(tmp_path / "trials" / "0")}


def test_a_trial_ends_with_its_last_seed_and_holds_them_all_in_order(tmp_path: Path) -> None:
    stage = stage_of(config_of(), tmp_path)
    first, second = ask(stage), ask(stage)
    assert tell(stage, second, level(3.0)) is None
    ending = tell(stage, first, level(1.0))
    assert ending is not None and ending.outcome is not None
    assert ending.outcome.metrics["objective"] == (2.0, 1.0)
    kept = json.loads((tmp_path / "trials" / "0" / "result.json").read_text())
    assert [run["seed"] for run in kept["runs"]] == kept["seeds"] == [0, 1]
    assert stage.outer.trials()[0]["status"] == "completed"
    assert stage.outer._observations.by_seed() == {0: {0: 1.0, 1: 3.0}}


def test_one_seeds_failure_ends_the_trial_and_stops_its_other_seeds(tmp_path: Path) -> None:
    stage = stage_of(config_of(seeds=(0, 1, 2)), tmp_path)
    first, second = ask(stage), ask(stage)
    ending = stage.fail(first, "nan: it is")
    assert ending == Ending(None, "nan: it is")
    assert stage.should_stop(second)
    assert ask(stage).index == 1
    stage.stopped(second)
    assert stage.outer.trials()[0]["status"] == "abandoned"
    assert not (tmp_path / "trials" / "0" / "result.json").exists()


def test_a_second_failure_or_a_late_success_of_an_ended_trial_changes_nothing(tmp_path: Path) -> None:
    stage = stage_of(config_of(seeds=(0, 1, 2)), tmp_path)
    first, second, third = ask(stage), ask(stage), ask(stage)
    assert stage.fail(first, "nan: it is") is not None
    assert stage.fail(second, "nan: too") is None
    assert tell(stage, third, level(1.0)) is None
    assert not (tmp_path / "trials" / "0" / "result.json").exists()


def run_baselines(stage: SearchStage) -> None:
    """Three trials with ends of 1, 2 and 3 on both seeds."""
    for end in (1.0, 2.0, 3.0):
        for _ in range(2):
            tell(stage, ask(stage), level(end))


def side_by_side(stage: SearchStage, jobs: list[Job], curve: list[float]) -> Ending | None:
    """Report all seeds' steps in turn until the trial stops."""
    for step, value in enumerate(curve):
        for job in jobs:
            ending = stage.report(job, Progress(step + 1, job.seeds[0], step, {"objective": value}))
            if ending is not None:
                return ending
    return None


def test_a_bad_trial_stops_where_all_its_seeds_have_come_and_the_search_learns_what_it_was_worth(
    tmp_path: Path,
) -> None:
    stage = stage_of(config_of(early_stopping=STOPPING), tmp_path)
    run_baselines(stage)
    jobs = [ask(stage), ask(stage)]
    ending = side_by_side(stage, jobs, level(1.2))
    assert ending is not None and ending.stopped and "stopped after 6 of 12 steps" in ending.reason
    kept = read_json(Path(jobs[0].folder) / "stopped.json")
    # All curves are straight lines through 0, so that the projection is exact.
    assert kept["steps"] == 6 and len(kept["curve"]) == 3
    assert kept["objective"] == pytest.approx(1.2) and kept["deviation"] == pytest.approx(0, abs=1e-9)
    assert stage.outer.trials()[3]["status"] == "early_stopped"
    assert stage.outer._observations.objective()[3] == pytest.approx(1.2)
    assert all(row.index != 3 for row in stage.outer.ranking())
    assert all(stage.should_stop(job) for job in jobs) and not stage.finished()
    for job in jobs:
        stage.stopped(job)
    assert ask(stage).index == 4


def test_one_seed_alone_stops_no_trial(tmp_path: Path) -> None:
    stage = stage_of(config_of(early_stopping=STOPPING), tmp_path)
    run_baselines(stage)
    first, second = ask(stage), ask(stage)
    assert tell(stage, first, level(-5.0)) is None
    ending = tell(stage, second, level(-5.0))
    assert ending is not None and ending.stopped and "stopped after 9 of 12 steps" in ending.reason


def test_baselines_are_trained_to_their_ends_however_bad(tmp_path: Path) -> None:
    stage = stage_of(config_of(early_stopping={**STOPPING, "least_trials": 3}), tmp_path)
    assert len(stage.outer._baselines) == 3
    for end in (3.0, 2.0, 0.1):
        for _ in range(2):
            tell(stage, ask(stage), level(end))
    assert [row["status"] for row in stage.outer.trials()] == ["completed"] * 3


def test_a_failed_trials_other_seeds_are_not_begun(tmp_path: Path) -> None:
    stage = stage_of(config_of(seeds=(0, 1), early_stopping=STOPPING), tmp_path)
    run_baselines(stage)
    first = ask(stage)
    stage.fail(first, "nan: it is")
    assert ask(stage).index == 4


def test_early_stopping_is_restored_by_a_new_launch(tmp_path: Path) -> None:
    config = config_of(early_stopping=STOPPING)
    stage = stage_of(config, tmp_path)
    run_baselines(stage)
    assert side_by_side(stage, [ask(stage), ask(stage)], level(0.5)) is not None
    again = stage_of(config, tmp_path)
    jobs = [ask(again), ask(again)]
    assert {job.index for job in jobs} == {4}
    ending = side_by_side(again, jobs, level(0.6))
    assert ending is not None and ending.stopped


def test_what_ended_just_before_a_kill_is_not_run_again(tmp_path: Path) -> None:
    config = config_of(trials=5, early_stopping=STOPPING)
    stage = stage_of(config, tmp_path)
    run_baselines(stage)
    # The worker finished both seeds of one trial and the driver wrote that another one stopped; neither was told.
    for seed in (0, 1):
        write_json(TrialFiles(Path(ask(stage).folder)).run_file(seed), run_of(seed, level(4.0)))
    other = Path(ask(stage).folder)
    write_json(other / "stopped.json", {"steps": 3, "objective": 0.5, "deviation": 0.1, "curve": level(0.5)[:3]})
    again = stage_of(config, tmp_path)
    assert again.ask() is None and again.finished()
    assert [row["status"] for row in again.outer.trials()][3:] == ["completed", "early_stopped"]
    assert read_json(tmp_path / "trials" / "3" / "result.json")["metrics"]["objective"][0] == 4.0


def test_a_curve_is_the_mean_over_all_seeds_up_to_the_slowest_ones_step(tmp_path: Path) -> None:
    trial = RunningTrial(Proposal(0, "any", Candidate(Shape()), "model"), tmp_path, (0, 1))
    trial.observe(1, 0, 10.0)
    assert trial.curve() == []
    trial.observe(0, 0, 1.0)
    assert trial.curve() == [5.5]
    trial.observe(0, 1, 3.0)
    assert trial.curve() == [5.5] and trial.done_steps == 3
    trial.observe(1, 1, 20.0)
    # Each seed is smoothed over the steps so far, then both are averaged.
    assert trial.curve() == [5.5, (2.0 + 15.0) / 2]


def test_more_trials_go_on_where_the_search_ended(tmp_path: Path) -> None:
    stage = stage_of(config_of(trials=4), tmp_path)
    while (job := stage.ask()) is not None:
        tell(stage, job, level(1.0 + job.index))
    assert stage.finished()
    more = stage_of(config_of(trials=6), tmp_path)
    assert not more.finished() and ask(more).index == 4
