import json
from dataclasses import replace
from statistics import fmean

import pytest

from pipeline.report import load_report_data
from pipeline.report.curve_figure import (
    MOST_POINTS,
    curve_results,
    learning_curves,
    metrics_drawn,
    series_of,
    smoothed_with_error,
)
from pipeline.report.page import render


def metrics_of(study):
    return list(metrics_drawn(curve_results(load_report_data(study.folder))))


def drawn(study, metric, name):
    traces = json.loads(learning_curves(load_report_data(study.folder)))["data"]
    (trace,) = [t for t in traces if t["meta"]["metric"] == metric and t.get("name") == name]
    return trace


def test_gold_and_held_out_curves_stand_where_they_were_measured_and_are_not_smoothed(study):
    study.held_out_every = 10
    study.search()
    study.confirm(seeds=(100, 101))
    paths = sorted(study.folder.confirm.glob("winner-*/result.json"))
    runs = [json.loads(path.read_text())["runs"][0] for path in paths]
    for metric, name in (("gold_reward", "gold_reward"), ("held_out", "objective")):
        trace = drawn(study, metric, "winner")
        assert trace["x"] == [0, 10, 20, 30]
        assert trace["mode"] == "lines+markers" and trace["visible"] is False
        means = [fmean(values) for values in zip(*([p[name] for p in run["held_out"]] for run in runs), strict=True)]
        assert trace["y"] == pytest.approx(means, rel=1e-4)
    assert drawn(study, "objective", "winner")["mode"] == "lines"


def test_a_metric_that_no_run_has_gets_no_button(make_study):
    study = make_study()
    study.search()
    assert metrics_of(study) == ["objective", "reward", "kl_nats", "response_tokens"]
    study.held_out_every, study.has_gold = 15, False
    study.search()
    study.confirm()
    assert metrics_of(study) == ["objective", "reward", "kl_nats", "response_tokens", "held_out"]
    page = render(load_report_data(study.folder))
    assert 'data-metric="held_out"' in page and 'data-metric="gold_reward"' not in page
    assert "Curves with markers were measured on held-out prompts" in page


def test_gold_that_a_trainer_of_ones_own_measured_at_every_step_is_drawn(study):
    study.search()
    path = study.folder.trial_folder(0) / "result.json"
    kept = json.loads(path.read_text())
    for run in kept["runs"]:
        for point in run["curve"]:
            point["gold_reward"] = 0.5
    study.write(path, kept)
    result = load_report_data(study.folder).trials[0].result
    series = series_of(result, "gold_reward")
    assert not series.held_out
    assert [estimate.mean for estimate in series.estimates] == pytest.approx([0.5] * 30)


def test_seeds_that_measured_at_different_steps_share_those_that_all_have(study):
    study.held_out_every = 10
    study.search()
    path = study.folder.trial_folder(0) / "result.json"
    kept = json.loads(path.read_text())
    del kept["runs"][0]["held_out"][1]
    study.write(path, kept)
    data = load_report_data(study.folder)
    assert data.trials[0].result.held_out.steps == (0, 20, 30)
    assert data.trials[1].result.held_out.steps == (0, 10, 20, 30)


def test_long_curves_are_thinned_and_keep_their_last_value(whole_study):
    result = load_report_data(whole_study.folder).confirmed[0].result
    long = tuple(tuple(float(step) for step in range(5 * MOST_POINTS + 3)) for _ in result.seeds)
    series = series_of(replace(result, curves={"objective": long}), "objective")
    assert len(series.steps) <= MOST_POINTS
    assert series.steps[-1] == 5 * MOST_POINTS + 3
    whole = smoothed_with_error(long)
    assert [whole[step - 1] for step in series.steps] == list(series.estimates)
