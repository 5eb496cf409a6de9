import json
from dataclasses import replace

import pytest

from pipeline.report import words
from pipeline.report.load import load_report_data
from pipeline.report.preservation import causes, preservation, sums
from shaping.certificate import Certificate
from tests.support.reports.page import page_of


def change_certificate(study, path, **changes):
    kept = json.loads(path.read_text())
    for run in kept["runs"]:
        run["certificate"].update(changes)
    study.write(path, kept)


def test_the_headline_says_what_was_checked_and_the_largest_error_of_all_runs(whole_study):
    change_certificate(whole_study, whole_study.folder.trial_folder(4) / "result.json", largest_error=7.5e-7)
    found = preservation(load_report_data(whole_study.folder))
    # Ten completed trials and an unfinished one with a seed, and six arms on four fresh seeds.
    runs = 10 * 2 + 1 + 6 * 4
    assert found.headline == (
        f"960 responses a run checked in {runs} runs, largest relative error 7.5e−7: no shape changed a total."
    )
    assert found.is_kept
    assert found.headline in page_of(whole_study).text


def test_one_run_that_changed_a_total_is_the_headline(whole_study):
    change_certificate(whole_study, whole_study.folder.trial_folder(4) / "result.json", largest_error=0.25)
    found = preservation(load_report_data(whole_study.folder))
    assert found.headline.endswith("largest relative error 2.5e−1: 2 runs changed a total.") and not found.is_kept
    assert "BROKEN" in page_of(whole_study).text


def test_a_refused_run_on_fresh_seeds_counts_as_one_that_changed_a_total(whole_study):
    folder = whole_study.folder.confirm_folder("winner", 101)
    arm = json.loads((folder / "result.json").read_text())["arm"]
    whole_study.write(folder / "failure.json", {"reason": "certificate", "detail": "missed", "arm": arm})
    assert "1 run changed a total" in preservation(load_report_data(whole_study.folder)).headline


def test_a_seed_of_a_failed_trial_that_ended_is_among_the_certified(whole_study):
    run = whole_study.run(0, 1.0, whole_study.mix(0.4, 0.1))
    run["certificate"]["largest_error"] = 0.5
    whole_study.write(whole_study.folder.trial_folder(10) / "seed-0.json", run)
    data = load_report_data(whole_study.folder)
    assert data.trials[10].certificate.largest_error == 0.5
    assert "1 run changed a total" in preservation(data).headline


def test_where_nothing_was_checked_nothing_is_claimed(study):
    found = preservation(load_report_data(study.folder))
    assert found.headline == "No response has been checked, so nothing is certified." and not found.is_kept
    study.search()
    for path in study.folder.trials.glob("*/result.json"):
        change_certificate(study, path, responses=0, largest_error=0.0)
    study.write(study.folder.trial_folder(11) / "seed-0.json", {**study.run(0, 1.0, study.mix(0.4, 0.1))})
    found = preservation(load_report_data(study.folder))
    assert found.headline.startswith("960 responses a run checked in 1 run,")
    assert found.headline.endswith("20 runs certified nothing.") and not found.is_kept


@pytest.mark.parametrize(
    ("certificate", "said"),
    [
        (Certificate(2e-7, 10, 1.0, {"prefix": True}), ("kept", "causal")),
        (Certificate(0.5, 10, 1.0, {"prefix": True, "shapley": False}), ("BROKEN", "not causal: shapley")),
        (Certificate(2e-7, 10, 0.9, {"lime": False, "shapley": False}), ("BROKEN: discounted, gamma 0.9", None)),
        (Certificate(0.0, 0, 1.0, {"sparse": True}), ("nothing checked", "causal")),
    ],
)
def test_a_certificate_in_words(certificate, said):
    assert sums(certificate) == said[0]
    assert causes(certificate) == (said[1] or "not causal: lime, shapley")


@pytest.mark.parametrize(
    ("error", "gamma", "said"),
    [
        (2e-7, 1.0, "sums kept, causal"),
        (2e-7, 0.9, "sums kept, but discounted by gamma 0.9, causal"),
        (0.5, 0.9, "SUMS BROKEN, causal"),
    ],
)
def test_a_discount_is_not_called_a_broken_sum(error, gamma, said):
    assert words.certificate(Certificate(error, 10, gamma, {"prefix": True})) == said


def test_arms_whose_responses_nobody_checked_are_not_said_to_keep_their_sums(whole_study):
    for path in whole_study.folder.confirm.glob("*/result.json"):
        change_certificate(whole_study, path, responses=0, largest_error=0.0)
    text = page_of(whole_study).text
    assert "nothing checked, not causal" in text and "sums kept" not in text


def test_controls_are_those_that_ran_and_say_where(whole_study):
    data = load_report_data(whole_study.folder)
    found = {control.name: control.ran for control in preservation(data).controls}
    assert found == {
        "sparse": "4 fresh seeds and in the search as 1 trial",
        "sparse, lambda 1": "4 fresh seeds",
        "sparse, reward-model critic": "4 fresh seeds",
        "sparse, reward-model critic, same lambda": "4 fresh seeds",
        "uniform": "4 fresh seeds",
    }
    searched = preservation(replace(data, confirmed=()))
    assert {control.name: control.ran for control in searched.controls} == {"sparse": "in the search as 1 trial"}


def test_a_trial_of_random_credit_is_a_control(study):
    study.trial(0, "3_0", "model", study.config.base_shape().with_changes(weights={"random": 1.0}), 1.0)
    (control,) = preservation(load_report_data(study.folder)).controls
    assert (control.name, control.ran) == ("random", "in the search as 1 trial")


def test_what_the_winner_had_to_keep_to_is_said(make_study):
    study = make_study(search={"constraints": {"kl_nats": 12.5, "kl_over_sparse": 2}})
    study.search()
    expected = "had to keep to at most 12.5 nats of KL at the end of training; at most 2 times the KL of the sparse arm"
    assert expected in page_of(study).text


def test_errors_are_written_without_needless_zeros():
    assert [words.error_size(value) for value in (0.0, 2.4e-7, 1e-4, 12.0)] == ["0", "2.4e−7", "1.0e−4", "1.2e1"]
