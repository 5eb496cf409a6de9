import json
import math
from statistics import fmean, stdev

import pytest

from pipeline.report import load_report_data
from shaping.errors import ShapetuneError


def test_every_trial_has_its_state(whole_study):
    data = load_report_data(whole_study.folder)
    states = {trial.index: trial.state for trial in data.trials}
    assert states == {**dict.fromkeys(range(10), "completed"), 10: "failed", 11: "unfinished"}
    assert data.trials[11].finished_seeds == 1
    assert data.trials[10].shape is not None
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
