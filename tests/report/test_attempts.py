import json

import pytest

from pipeline.report.load import load_report_data
from pipeline.report.page import render
from pipeline.report.provenance import read_attempts
from pipeline.trials.failures import Failure, note_failure
from pipeline.trials.records import TrialFiles
from pipeline.trials.types import Job
from shaping.errors import ShapetuneError
from tests.support.reports.page import Page, page_of


def test_what_an_executor_notes_is_what_the_report_reads(tmp_path):
    job = Job(index=3, folder=str(tmp_path), arm={"name": "a"}, seeds=(7,), config={}, assets="")
    note_failure(job, Failure("worker_died", "the process was killed", "Traceback"))
    (attempt,) = read_attempts(TrialFiles(tmp_path))
    assert (attempt.seeds, attempt.reason, attempt.detail) == ((7,), "worker_died", "the process was killed")


def test_an_attempt_says_what_became_of_its_run(tmp_path):
    study_folder = tmp_path / "3"
    study_folder.mkdir()
    lines = [
        {"at": f"2026-11-21T12:0{minute}:00+00:00", "seeds": [0], "reason": "hung", "detail": "silent"}
        for minute in range(2)
    ]
    (study_folder / "failures-0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [attempt.then for attempt in read_attempts(TrialFiles(study_folder))] == ["tried again", "to be tried again"]
    (study_folder / "failure.json").write_text("{}")
    assert [attempt.then for attempt in read_attempts(TrialFiles(study_folder))] == ["tried again", "given up"]
    # The trial was given up for another seed's sake.
    (study_folder / "seed-0.json").write_text("{}")
    assert [attempt.then for attempt in read_attempts(TrialFiles(study_folder))] == ["tried again", "tried again"]


def test_a_retried_trial_says_how_often_and_why_and_every_attempt_is_listed(whole_study):
    folder = whole_study.folder
    for seed in whole_study.config.search.seeds:
        whole_study.write(folder.trial_folder(7) / f"seed-{seed}.json", {"kept": "by the result"})
    whole_study.failed_attempt(folder.trial_folder(7))
    whole_study.failed_attempt(folder.trial_folder(7), "out_of_memory", at="12:05:00")
    whole_study.failed_attempt(folder.trial_folder(10), "nan")
    whole_study.write(folder.confirm_folder("winner", 100) / "seed-100.json", {})
    whole_study.failed_attempt(folder.confirm_folder("winner", 100), "hung", 100)
    text = page_of(whole_study).text
    assert "completed retried twice: worker_died, out_of_memory" in text
    # The last attempt of what was given up is no retry.
    assert "failed: nan the policy" in text
    assert "2026-11-21 12:05 UTC trial 7 0 out_of_memory out_of_memory at step 3 tried again" in text
    assert "trial 10 0 nan nan at step 3 given up" in text
    assert "winner, on fresh seeds 100 hung hung at step 3 tried again" in text


def test_without_failed_attempts_the_page_does_not_speak_of_them(whole_study):
    text = page_of(whole_study).text
    assert "Attempts that failed" not in text and "retried" not in text


def test_a_line_that_was_cut_off_is_left_out_and_one_of_another_kind_is_named(study):
    study.failed_attempt(study.folder.trial_folder(0))
    path = study.folder.trial_folder(0) / "failures-0.jsonl"
    path.write_text(path.read_text() + '{"at": "2026-')
    assert len(load_report_data(study.folder).trials[0].attempts) == 1
    path.write_text("[1]\n")
    with pytest.raises(ShapetuneError, match=r"failures-0\.jsonl"):
        load_report_data(study.folder)


def test_details_are_shown_without_the_folders_of_the_machine(study):
    study.failed_trial(0, "exception", "OSError: /home/jane/private/data.txt: no such file")
    line = {"at": "x", "seeds": [0], "reason": "r", "detail": "/home/jane/private/data.txt is missing"}
    (study.folder.trial_folder(0) / "failures-0.jsonl").write_text(json.dumps(line) + "\n")
    text = render(load_report_data(study.folder))
    assert "jane" not in text and Page(text).text.count("…/data.txt") == 2
