import json
from dataclasses import replace
from statistics import fmean, stdev

import pytest

from pipeline.report.figures.curves import MOST_POINTS, curve_results, learning_curves, metrics_drawn, series_of
from pipeline.report.load import load_report_data
from pipeline.report.page import render
from pipeline.trials.statistics import smoothed_mean_curve


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
    assert series.means() == pytest.approx([0.5] * 30)


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


SEEDS = ((0.0, 1.0, 4.0, 2.0, 8.0, 3.0, 1.0), (2.0, 1.0, 0.0, 2.0, 4.0, 9.0, 5.0))


@pytest.fixture
def curve_of(whole_study):
    """Make the series of J of an arm whose seeds have the given curves."""
    result = load_report_data(whole_study.folder).confirmed[0].result
    return lambda *seeds: series_of(replace(result, curves={"objective": tuple(map(tuple, seeds))}), "objective")


def test_the_smoothed_mean_is_the_one_that_the_verdict_judges_by(curve_of):
    series = curve_of(*SEEDS)
    assert series.means() == pytest.approx(smoothed_mean_curve(SEEDS))
    assert series.means() == [estimate.mean for estimate in series.estimates()]


def test_the_band_is_the_standard_error_of_each_seeds_last_five_steps(curve_of):
    last = [fmean(values[2:7]) for values in SEEDS]
    assert curve_of(*SEEDS).estimates()[-1].error == pytest.approx(stdev(last) / 2**0.5)


def test_one_seed_has_a_curve_without_an_error(curve_of):
    assert curve_of([1.0, 2.0]).estimates()[1].error is None


def test_seeds_are_drawn_as_far_as_the_shortest_of_them_went(curve_of):
    assert curve_of([1.0, 2.0, 3.0], [1.0, 2.0]).steps == (1, 2)


def test_what_one_seed_did_not_measure_has_no_curve(study):
    study.held_out_every = 10
    study.search()
    path = study.folder.trial_folder(0) / "result.json"
    kept = json.loads(path.read_text())
    kept["runs"][0]["held_out"][1]["gold_reward"] = None
    study.write(path, kept)
    first, second = (trial.result for trial in load_report_data(study.folder).trials[:2])
    assert series_of(first, "gold_reward") is None and series_of(first, "held_out") is not None
    assert series_of(second, "gold_reward") is not None


def test_long_curves_are_thinned_and_keep_their_last_value(curve_of):
    long = [float(step) for step in range(5 * MOST_POINTS + 3)]
    series = curve_of(long, long)
    assert len(series.steps) <= MOST_POINTS
    assert series.steps[-1] == len(long)
    whole = smoothed_mean_curve([long])
    assert [whole[step - 1] for step in series.steps] == series.means()


def test_fifty_long_trials_are_still_a_small_page(make_study):
    study = make_study(ppo={"steps": 1000}, search={"trials": 50, "seeds": [0]}, confirm={"top": 10})
    study.held_out_every = 25
    study.long_search(50)
    study.confirm(seeds=(100,), top=10)
    study.tokens()
    study.sensitivity()
    data = load_report_data(study.folder)
    assert len(data.trials) == 50
    # Plotly itself takes five of eight; a tenth is left for what others add.
    assert len(render(data).encode()) < 0.9 * 8 * 2**20
