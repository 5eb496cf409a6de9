import json
from dataclasses import replace
from statistics import fmean, stdev

import pytest

from pipeline.confirmation import smoothed_mean_curve
from pipeline.report import load_report_data
from pipeline.report.figures import METRICS, arm_colours, arms_drawn, forest, learning_curves, smoothed_with_error


def test_smoothed_mean_is_the_one_that_the_verdict_judges_by():
    series = [[0.0, 1.0, 4.0, 2.0, 8.0, 3.0, 1.0], [2.0, 1.0, 0.0, 2.0, 4.0, 9.0, 5.0]]
    estimates = smoothed_with_error(series)
    assert [estimate.mean for estimate in estimates] == pytest.approx(smoothed_mean_curve(series))


def test_the_band_is_the_standard_error_of_each_seeds_last_five_steps():
    series = [[0.0, 1.0, 4.0, 2.0, 8.0, 3.0, 1.0], [2.0, 1.0, 0.0, 2.0, 4.0, 9.0, 5.0]]
    last = [fmean(values[2:7]) for values in series]
    assert smoothed_with_error(series)[-1].error == pytest.approx(stdev(last) / 2**0.5)


def test_one_seed_has_a_curve_without_an_error():
    assert smoothed_with_error([[1.0, 2.0]])[1].error is None


def test_only_the_curves_of_one_metric_are_visible(whole_study):
    traces = json.loads(learning_curves(load_report_data(whole_study.folder)))["data"]
    named = {metric: {t["name"] for t in traces if t["meta"]["metric"] == metric and "name" in t} for metric in METRICS}
    arms = {"winner", "sparse", "sparse, lambda 1", "sparse, reward-model critic", "uniform"}
    assert all(arms <= names for names in named.values())
    assert {trace["meta"]["metric"] for trace in traces if trace["visible"]} == {"objective"}


def test_a_search_alone_draws_its_winner_and_baselines(study):
    study.search()
    names = [name for name, _ in arms_drawn(load_report_data(study.folder))]
    assert names[0] == "9_0"
    assert set(names[1:]) == {"sparse", "prefix", "attention", "shapley"}


def test_the_forest_shows_each_rivals_interval_and_zero(whole_study):
    verdict = load_report_data(whole_study.folder).verdict
    figure = json.loads(forest(verdict))
    top, difference = figure["data"][-1], verdict.differences[0]
    low, high = figure["layout"]["xaxis"]["range"]
    assert top["x"] == [difference.mean]
    assert top["x"][0] + top["error_x"]["array"][0] == pytest.approx(difference.high)
    assert top["x"][0] - top["error_x"]["arrayminus"][0] == pytest.approx(difference.low)
    assert low < 0 < high


def test_one_pair_of_seeds_is_a_point_without_an_interval(study):
    study.search()
    study.confirm(seeds=(100,))
    figure = json.loads(forest(load_report_data(study.folder).verdict))
    assert all("array" not in trace["error_x"] for trace in figure["data"])
    assert "one pair" in figure["layout"]["annotations"][1]["text"]


def test_no_two_arms_share_a_colour_and_the_winner_keeps_its_own(whole_study):
    confirmed = load_report_data(whole_study.folder)
    searched = replace(confirmed, confirmed=(), verdict=None)
    for data in (confirmed, searched):
        colours = arm_colours(data)
        assert len(set(colours.values())) == len(colours) == 5
    assert arm_colours(confirmed)["winner"] == arm_colours(searched)["9_0"]
