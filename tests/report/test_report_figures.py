import json
from dataclasses import replace

import pytest

from pipeline.report.figures.base import arm_colours, arms_drawn
from pipeline.report.figures.curves import METRICS, learning_curves
from pipeline.report.figures.forest import forest
from pipeline.report.figures.trials import ORIGINS, trial_values
from pipeline.report.load import load_report_data

OPEN = "circle-open"


def values_of(study):
    return json.loads(trial_values(load_report_data(study.folder)))["data"]


def shown(traces, name):
    (trace,) = [trace for trace in traces if trace.get("name") == name]
    return trace


def test_only_the_curves_of_one_metric_are_visible(study):
    study.held_out_every = 10
    study.search()
    study.confirm()
    traces = json.loads(learning_curves(load_report_data(study.folder)))["data"]
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
    # Neither Student's t nor the bootstrap has one.
    assert len(figure["data"]) == 3
    assert all("array" not in trace["error_x"] for trace in figure["data"])
    assert "one pair" in figure["layout"]["annotations"][1]["text"]


def test_no_two_arms_share_a_colour_and_the_winner_keeps_its_own(whole_study):
    confirmed = load_report_data(whole_study.folder)
    searched = replace(confirmed, confirmed=(), verdict=None)
    for data, arms in ((confirmed, 6), (searched, 5)):
        colours = arm_colours(data)
        assert len(set(colours.values())) == len(colours) == arms
    assert arm_colours(confirmed)["winner"] == arm_colours(searched)["9_0"]


def test_the_bootstrap_is_a_thin_line_of_its_own_under_each_interval(whole_study):
    verdict = load_report_data(whole_study.folder).verdict
    wide = replace(verdict.differences[0], bootstrap_low=-7.0, bootstrap_high=9.0)
    figure = json.loads(forest(replace(verdict, differences=(wide, *verdict.differences[1:]))))
    lines = [trace for trace in figure["data"] if trace["mode"] == "lines"]
    points = [trace for trace in figure["data"] if trace["mode"] == "markers"]
    assert [line["x"] for line in reversed(lines)] == [[-7.0, 9.0]] + [
        [difference.bootstrap_low, difference.bootstrap_high] for difference in verdict.differences[1:]
    ]
    assert all(line["y"][0] < point["y"][0] for line, point in zip(lines, points, strict=True))
    low, high = figure["layout"]["xaxis"]["range"]
    assert low < -7 and high > 9
    assert "bootstrap [−7.000, +9.000]" in points[-1]["hovertemplate"]


def test_an_interval_that_only_one_of_the_two_bears_out_is_coloured_as_undecided(whole_study):
    verdict = load_report_data(whole_study.folder).verdict
    assert verdict.differences[0].is_gain
    doubtful = replace(verdict.differences[0], bootstrap_low=-0.01)
    figure = json.loads(forest(replace(verdict, differences=(doubtful, verdict.differences[1]))))
    undecided, gain = (trace["marker"]["color"] for trace in reversed(figure["data"]) if trace["mode"] == "markers")
    assert undecided != gain


def test_runners_up_are_drawn_dashed_and_have_colours_of_their_own(study):
    study.search()
    study.confirm(top=10)
    data = load_report_data(study.folder)
    colours = arm_colours(data)
    assert len(set(colours.values())) == len(colours) == 15
    traces = json.loads(learning_curves(data))["data"]
    lines = [trace for trace in traces if trace.get("name") in colours and trace["meta"]["metric"] == "objective"]
    dashed = {line["name"] for line in lines if line["line"]["dash"] == "dash"}
    assert len(lines) == 15
    assert dashed == {name for name in colours if name.startswith("place ")} and len(dashed) == 9


def test_stopped_curves_are_dotted_and_only_where_j_is_shown(whole_study):
    assert "stopped early" not in {
        trace.get("name") for trace in json.loads(learning_curves(load_report_data(whole_study.folder)))["data"]
    }
    whole_study.early_stopping()
    data = load_report_data(whole_study.folder)
    trace = shown(json.loads(learning_curves(data))["data"], "stopped early")
    assert trace["line"]["dash"] == "dot" and trace["meta"]["metric"] == "objective"
    assert trace["x"] == [*range(1, 21), None, *range(1, 31), None]
    seen = [*data.trials[12].stop.curve, None, *data.trials[13].stop.curve[:30], None]
    assert [value is None for value in trace["y"]] == [value is None for value in seen]
    assert list(filter(None, trace["y"])) == pytest.approx(list(filter(None, seen)), rel=1e-4)


def test_baselines_of_an_earlier_study_are_drawn_and_say_whence_they_are(study):
    base = study.config.base_shape()
    study.trial(0, "sparse", "earlier study", base, 1.0)
    study.trial(1, "other 7", "earlier study", study.mix(0.4, 0.1), 1.2)
    data = load_report_data(study.folder)
    assert [name for name, _ in arms_drawn(data)] == ["sparse"]
    traces = json.loads(learning_curves(data))["data"]
    assert all(t["hovertemplate"] == "%{y:.3f}, earlier study" for t in traces if t.get("name") == "sparse")


def test_measured_trials_are_filled_markers_under_their_origin(whole_study):
    whole_study.trial(12, "other 7", "earlier study", whole_study.mix(0.4, 0.1), 1.2)
    data, traces = load_report_data(whole_study.folder), values_of(whole_study)
    assert [trace["name"] for trace in traces] == [*ORIGINS, "the search's winner"]
    for trace in traces[:-1]:
        trials = [trial for trial in data.trials_in("completed") if trial.origin == trace["name"]]
        assert trace["x"] == [trial.index for trial in trials] and "open" not in trace["marker"]["symbol"]
        assert trace["y"] == [trial.result.metrics["objective"].mean for trial in trials]
        assert trace["error_y"]["array"] == [trial.result.metrics["objective"].error for trial in trials]
        assert all(f", {trace['name']}<br>J " in hover for hover in trace["hovertext"])
    assert traces[-1]["x"] == [9]


def test_a_projection_is_an_open_marker_and_never_among_the_measured(whole_study):
    whole_study.early_stopping()
    traces = values_of(whole_study)
    stopped = shown(traces, "stopped early: projected, not measured")
    assert stopped["marker"]["symbol"] == OPEN
    assert (stopped["x"], stopped["y"], stopped["error_y"]["array"]) == ([12, 13], [0.25, 0.75], [0.125, 0.125])
    assert (
        "trial 12: 12_0, model<br>stopped after 20 of 60 steps, on its way to J +0.250 ± 0.125"
        in (stopped["hovertext"][0])
    )
    assert all(not {12, 13} & set(trace["x"]) for trace in traces if trace is not stopped)


def test_a_search_on_the_curve_draws_what_it_compares(make_study):
    study = make_study(search={"objective": "curve"})
    study.search()
    study.stopped_trial(12, 20, 0.25)
    data, traces = load_report_data(study.folder), values_of(study)
    expected = [t.result.metrics["curve_objective"].mean for t in data.trials_in("completed") if t.origin == "model"]
    assert shown(traces, "model")["y"] == expected
    hover = shown(traces, "stopped early: projected, not measured")["hovertext"][0]
    assert "on its way to mean J of curve +0.250" in hover


def test_pointing_at_a_trial_that_breaks_constraints_says_so(whole_study):
    rows = json.loads(whole_study.folder.ranking_file.read_text())
    whole_study.write(whole_study.folder.ranking_file, [{**row, "feasible": row["index"] != 8} for row in rows])
    model = shown(values_of(whole_study), "model")
    assert ["breaks constraints" in hover for hover in model["hovertext"]] == [index == 8 for index in model["x"]]


def test_a_search_without_values_has_no_figure_of_them(study):
    study.failed_trial(0)
    study.unfinished_trial(1)
    assert trial_values(load_report_data(study.folder)) is None


def test_names_of_trials_are_text_to_the_figure_too(study):
    # Plotly reads some elements in what it shows, links among them.
    study.trial(0, "<b>bold</b>", "<i>model</i>", study.mix(0.4, 0.1), 1.2)
    study.stopped_trial(1, 20, 0.25)
    stopped = study.folder.trial_folder(1) / "trial.json"
    study.write(stopped, {**json.loads(stopped.read_text()), "arm": "<b>bold</b>"})
    measured, projected = values_of(study)
    assert measured["name"] == "&lt;i&gt;model&lt;/i&gt;"
    for trace in (measured, projected):
        assert "&lt;b&gt;bold&lt;/b&gt;" in trace["hovertext"][0] and "<b>" not in trace["hovertext"][0]
