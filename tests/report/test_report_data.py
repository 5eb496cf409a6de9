import json
import math
from dataclasses import astuple
from statistics import fmean, stdev

import pytest

from pipeline.report.figures.trials import ORIGINS
from pipeline.report.load import load_report_data
from pipeline.report.sensitivity import read_sensitivity
from pipeline.trials.arm import Arm
from pipeline.trials.records import Origin
from shaping.errors import ShapetuneError


def test_every_trial_has_its_state(whole_study):
    data = load_report_data(whole_study.folder)
    states = {trial.index: trial.state_word for trial in data.trials}
    assert states == {**dict.fromkeys(range(10), "completed"), 10: "failed", 11: "unfinished"}
    assert data.trials[11].finished_seeds == 1
    assert data.trials[10].tried is not None
    assert data.trials[10].failure.reason == "nan"


def test_a_result_whose_certificate_failed_is_a_failed_trial(whole_study):
    arm = json.loads((whole_study.folder.trial_folder(3) / "result.json").read_text())["arm"]
    failure = {"reason": "certificate", "detail": "missed its score", "arm": arm}
    whole_study.write(whole_study.folder.trial_folder(3) / "failure.json", failure)
    assert load_report_data(whole_study.folder).trials[3].state == "failed"


def test_estimates_are_means_with_standard_errors_over_seeds(whole_study):
    confirmed = load_report_data(whole_study.folder).confirmed[0]
    paths = whole_study.folder.confirm.glob("winner-*/result.json")
    values = [json.loads(path.read_text())["runs"][0]["evaluation"]["objective"] for path in paths]
    assert confirmed.arm.name == "winner"
    assert confirmed.result.seeds == (100, 101, 102, 103)
    assert confirmed.result.metrics["objective"].mean == pytest.approx(fmean(values))
    assert confirmed.result.metrics["objective"].error == pytest.approx(stdev(values) / 2)


def test_trials_are_ranked_by_belief_and_then_by_what_was_observed(whole_study):
    whole_study.write(
        whole_study.folder.ranking_file,
        [
            {"index": 0, "arm": "sparse", "mean": 1.0, "deviation": 0.1, "from_model": True},
            {"index": 1, "arm": "prefix", "mean": 2.0, "deviation": 0.1, "from_model": True},
        ],
    )
    ranked = [trial.index for trial in load_report_data(whole_study.folder).ranked]
    assert ranked[:3] == [1, 0, 9]
    assert ranked[-1] == 11
    assert 10 not in ranked


def test_the_verdict_survives_its_file_with_unbounded_intervals(study):
    study.search()
    study.confirm(seeds=(100,))
    difference = load_report_data(study.folder).verdict.differences[0]
    assert difference.low == -math.inf
    assert difference.high == math.inf
    assert difference.seeds == 1


def test_token_rows_put_the_winner_first_and_sum_to_the_score(whole_study):
    sample = load_report_data(whole_study.folder).samples[0]
    assert sample.rows[0].method == "winner"
    assert all(row.total == pytest.approx(sample.score) and sample.keeps_sum(row) for row in sample.rows)


@pytest.mark.parametrize("text", ["not json", '[{"index": 0}]', "7"])
def test_a_file_that_shapetune_did_not_write_is_named(whole_study, text):
    whole_study.folder.ranking_file.write_text(text)
    with pytest.raises(ShapetuneError, match=r"ranking\.json"):
        load_report_data(whole_study.folder)


def test_token_rows_of_another_length_are_refused(whole_study):
    rows = {"prompt": "a", "tokens": ["b", "c"], "score": 1.0, "rewards": {"sparse": [1.0]}}
    whole_study.write(whole_study.folder.tokens_file, [rows])
    with pytest.raises(ShapetuneError, match=r"tokens\.json.*sparse"):
        load_report_data(whole_study.folder)


def test_a_stopped_trial_has_its_shape_and_projection_and_no_result(whole_study):
    whole_study.early_stopping()
    trial = load_report_data(whole_study.folder).trials[12]
    assert trial.state == "stopped"
    assert trial.result is None and trial.belief is None
    assert trial.tried is not None and trial.tried.shape == whole_study.mix(0.2, 0.1)
    assert (trial.stop.steps, trial.stop.objective, trial.stop.deviation) == (20, 0.25, 0.125)
    assert len(trial.stop.curve) == 20


def test_a_seed_that_failed_after_its_trial_was_stopped_does_not_make_it_a_failure(whole_study):
    whole_study.early_stopping()
    arm = Arm("12_0", whole_study.mix(0.2, 0.1)).to_dict()
    whole_study.write(
        whole_study.folder.trial_folder(12) / "failure.json", {"reason": "nan", "detail": "nan", "arm": arm}
    )
    data = load_report_data(whole_study.folder)
    assert data.trials[12].state == "stopped"
    assert [trial.index for trial in data.trials_in("failed")] == [10]


def test_stopped_trials_stand_behind_every_measured_one_whatever_they_promise(whole_study):
    whole_study.stopped_trial(12, 20, 0.25)
    whole_study.stopped_trial(13, 45, 99.0)
    rows = json.loads(whole_study.folder.ranking_file.read_text())
    # Trial 9 stands by what was observed of it, the others by what is believed.
    whole_study.write(whole_study.folder.ranking_file, rows[:9])
    assert [trial.index for trial in load_report_data(whole_study.folder).ranked][-4:] == [9, 13, 12, 11]


def test_arms_that_break_constraints_stand_behind_all_that_were_believed_in(whole_study):
    rows = json.loads(whole_study.folder.ranking_file.read_text())
    rows = [{**row, "feasible": row["index"] not in (9, 4)} for row in rows]
    whole_study.write(whole_study.folder.ranking_file, rows)
    data = load_report_data(whole_study.folder)
    assert [trial.index for trial in data.ranked][:10] == [8, 7, 6, 5, 3, 2, 1, 0, 9, 4]
    assert {trial.index for trial in data.trials if trial.breaks_constraints} == {4, 9}


def test_every_origin_has_a_colour_of_its_own():
    assert list(ORIGINS) == list(Origin)


def test_a_trial_taken_over_counts_the_seeds_that_this_search_has(make_study):
    study = make_study(search={"seeds": [0, 1]})
    base = study.config.base_shape()
    study.trial(0, "sparse", "earlier study", base, 1.0)
    path = study.folder.trial_folder(0) / "result.json"
    kept = json.loads(path.read_text())
    study.write(path, {**kept, "runs": [*kept["runs"], study.run(2, 50.0, base)]})
    (trial,) = load_report_data(study.folder).trials
    assert trial.is_taken_over and trial.is_baseline
    assert trial.result.seeds == (0, 1)
    assert trial.result.metrics["objective"].mean < 2


def test_parameters_are_read_in_words_the_most_important_first(study):
    study.sensitivity()
    assert [astuple(row) for row in load_report_data(study.folder).sensitivity] == [
        ("share of prefix", 0.625, 0.375, "more is better"),
        ("lambda", 0.3125, 0.25, "more is worse"),
        ("share of shapley", 0.125, 0.1, "more is better"),
        ("share of attention", 0.0625, 0.0, "no direction"),
    ]


def test_a_study_without_a_model_has_no_sensitivity(study):
    assert load_report_data(study.folder).sensitivity == ()
    study.write(study.folder.sensitivity_file, {})
    assert load_report_data(study.folder).sensitivity == ()


def test_choices_are_named_by_their_values_and_estimates_are_kept_in_their_bounds(make_study):
    space = {"name": "full", "methods": ["prefix", "shapley"]}
    shape = {"max_units": 12}
    content = {
        "unit_OH_PARAM_0": {"total": 1.25, "first": 0.25, "direction": 1.0},
        "unit_OH_PARAM_2": {"total": 0.5, "first": 0.75, "direction": -1.0},
        "budget": {"total": -0.01, "first": 0.0, "direction": 1.0},
        "weight_prefix": {"total": math.nan, "first": 0.0, "direction": 0.0},
    }
    config = make_study(space=space, shape=shape).config
    assert [astuple(row) for row in read_sensitivity(content, config.make_space())] == [
        ("unit is token", 1.0, 0.25, "better"),
        ("unit is sentence", 0.5, 0.5, "worse"),
        ("budget", 0.0, 0.0, "more is better"),
    ]


@pytest.mark.parametrize(("direction", "words"), [(1.0, "towards span is better"), (-1.0, "towards token is better")])
def test_of_two_choices_the_direction_names_one(make_study, direction, words):
    study = make_study(space={"name": "full", "methods": ["shapley"], "units": ["token", "span"], "budget": [16, 16]})
    content = {"unit": {"total": 0.5, "first": 0.5, "direction": direction}}
    (row,) = read_sensitivity(content, study.config.make_space())
    assert (row.parameter, row.direction) == ("unit", words)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("stopped", {"steps": 3}),
        ("trial", {"index": 0, "arm": "a", "origin": "model", "shape": 3}),
        ("sensitivity", {"gae_lambda": {"total": 1.0}}),
        ("sensitivity", [1]),
    ],
)
def test_new_files_that_shapetune_did_not_write_are_named_too(study, name, content):
    folder = study.folder.root if name == "sensitivity" else study.folder.trial_folder(0)
    study.write(folder / f"{name}.json", content)
    with pytest.raises(ShapetuneError, match=rf"{name}\.json"):
        load_report_data(study.folder)


def test_gold_is_there_when_a_gold_model_scored(study, make_study):
    study.search()
    assert load_report_data(study.folder).has_gold
    without = make_study()
    without.has_gold = False
    without.search()
    without.confirm()
    assert not load_report_data(without.folder).has_gold


def test_a_confirmed_run_whose_certificate_was_refused_is_only_a_failure(whole_study):
    folder = whole_study.folder.confirm_folder("winner", 101)
    arm = json.loads((folder / "result.json").read_text())["arm"]
    whole_study.write(folder / "failure.json", {"reason": "certificate", "detail": "missed", "arm": arm})
    data = load_report_data(whole_study.folder)
    assert data.confirmed[0].result.seeds == (100, 102, 103)
    assert len(data.confirmation_failures) == 1
