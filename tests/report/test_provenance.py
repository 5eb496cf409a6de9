import json
import math
from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest

from pipeline.report.load import load_report_data
from pipeline.report.page import cost_line, render, shareable, shareable_yaml
from pipeline.report.run_record import RunRecord, cpu_ratio, record_of
from pipeline.runtime.environment import found_here
from pipeline.study.provenance import note_launch
from pipeline.trials.results import RunResult
from shaping.errors import ShapetuneError
from tests.support.reports.page import page_of


def test_every_launch_is_a_line_and_the_page_says_what_they_ran_with(whole_study):
    note_launch(whole_study.folder, {})
    note_launch(whole_study.folder, {})
    launches = load_report_data(whole_study.folder).provenance.launches
    assert len(launches) == 2
    here, text = found_here(), page_of(whole_study).text
    assert f"Versions Python {here['python']}, shapetune {here['versions']['shapetune']}, torch" in text
    assert f"{here['processor']}, {here['processors']} processors" in text
    assert (here["commit"] or "an installed copy") in text


def test_versions_that_changed_between_launches_are_all_named(whole_study):
    line = found_here() | {"at": "2026-11-21T12:00:00+00:00", "commit": "0123456789ab", "gpus": ["H200", "H200"]}
    lines = [{**line, "versions": {"shapetune": "0.1.0", "torch": torch}} for torch in ("2.6", "2.13")]
    whole_study.folder.provenance_file.write_text("".join(json.dumps(each) + "\n" for each in lines))
    text = page_of(whole_study).text
    assert "shapetune 0.1.0, torch 2.6, then 2.13" in text
    assert "in a checkout of commit 0123456789ab" in text
    assert "2 × H200" in text


def test_a_study_of_a_version_that_noted_nothing_says_so(whole_study):
    text = page_of(whole_study).text
    assert "Versions not noted at the launch, but for those of torch below" in text
    assert "Launches" not in text


def test_a_line_of_another_kind_is_named(whole_study):
    whole_study.folder.provenance_file.write_text('{"at": 1}\n')
    with pytest.raises(ShapetuneError, match=r"provenance\.jsonl"):
        load_report_data(whole_study.folder)


def test_what_was_measured_of_the_models_is_shown_and_escaped(whole_study):
    assert "as measured when they were built" not in page_of(whole_study).text
    facts = {"reward_model_prefix_correlation_24": 0.8411, "reviews": 12808, "<script>x": -1.0}
    whole_study.write(whole_study.folder.models_file, facts)
    page = page_of(whole_study)
    assert "reward model prefix correlation 24 0.841" in page.text and "reviews 12808" in page.text
    assert "<script>x −1.000" in page.text


@pytest.mark.parametrize("content", ["[1]", '{"a": "b"}', "{"])
def test_facts_of_another_kind_are_named(content, whole_study):
    whole_study.folder.models_file.write_text(content)
    with pytest.raises(ShapetuneError, match=r"models\.json"):
        load_report_data(whole_study.folder)


def test_stages_add_up_what_their_finished_runs_took(whole_study):
    whole_study.trial(12, "other", "earlier study", whole_study.mix(0.4, 0.1), 1.2)
    search, confirmation = load_report_data(whole_study.folder).provenance.stages
    kept = [
        json.loads(path.read_text())
        for path in sorted(whole_study.folder.trials.glob("*/result.json"))
        if path.parent.name != "12"
    ]
    runs = [run for each in kept for run in each["runs"]]
    runs.append(json.loads((whole_study.folder.trial_folder(11) / "seed-0.json").read_text()))
    assert search.runs == len(runs) == 21
    assert search.cpu_seconds == pytest.approx(sum(run["training_cpu_seconds"] for run in runs))
    assert search.wall_seconds == pytest.approx(sum(run["wall_seconds"] for run in runs))
    assert search.credit_tokens == sum(run["credit_tokens"] for run in runs)
    assert confirmation.runs == 24
    assert "search 21 5.2 min" in page_of(whole_study).text


def test_runs_that_kept_neither_time_nor_machine_leave_dashes(study):
    study.search()
    path = study.folder.trial_folder(0) / "result.json"
    kept = json.loads(path.read_text())
    for run in kept["runs"]:
        for name in ("wall_seconds", "training_cpu_seconds", "credit_tokens", "machine", "held_out"):
            del run[name]
    study.write(path, kept)
    provenance = load_report_data(study.folder).provenance
    assert (provenance.stages[0].wall_seconds, provenance.stages[0].credit_tokens) == (None, None)
    assert "search 21 – – –" in page_of(study).text


def read_record(run: dict[str, Any]) -> RunRecord:
    return record_of(RunResult.from_dict(run))


def test_credit_of_a_trainer_of_ones_own_is_not_known(study):
    run = study.run(0, 1.0, study.mix(0.4, 0.1))
    assert read_record(run).credit_tokens == 960 * 30 * 3
    own = read_record({**run, "credit_tokens": 0, "machine": {**run["machine"], "precision": "own trainer"}})
    assert own.credit_tokens is None and own.credit_per_response is None


def test_the_place_of_a_trainer_without_torch_says_nothing_of_it(study):
    run = study.run(0, 1.0, study.mix(0.4, 0.1))
    assert read_record(run).place == "x86_64, 1 thread, float32, torch 2.13.0+cpu"
    bare = {"host": "here", "device": "x86_64", "precision": "own trainer"}
    assert read_record({**run, "machine": bare}).place == "x86_64, own trainer"


def test_the_cost_of_the_winner_is_paired_with_sparse_by_seed(whole_study):
    data = load_report_data(whole_study.folder)
    records = {each.arm.name: each.result.records for each in data.confirmed}
    pairs = zip(records["winner"], records["sparse"], strict=True)
    expected = math.exp(fmean(math.log(ours.cpu_seconds / theirs.cpu_seconds) for ours, theirs in pairs))
    found = cpu_ratio(records["winner"], records["sparse"])
    assert found.mean == pytest.approx(expected) and found.low < expected < found.high
    back = cpu_ratio(records["sparse"], records["winner"])
    assert (1 / back.mean, 1 / back.high) == pytest.approx((found.mean, found.low))
    line = f"Cost: {expected:.2f} × [{found.low:.2f}, {found.high:.2f}] the processor time of a sparse run, "
    assert (
        line + "over 4 paired seeds; for credit the reward model read 90 tokens a response."
        in page_of(whole_study).text
    )
    alone = replace(data, confirmed=tuple(each for each in data.confirmed if each.arm.name != "sparse"))
    assert cost_line(alone) == ""


def test_only_seeds_that_both_arms_ran_are_paired(study):
    shape = study.mix(0.4, 0.1)
    records = {seed: read_record(study.run(seed, 1.0, shape)) for seed in range(4)}
    ours = [replace(records[seed], cpu_seconds=20.0) for seed in (0, 1, 2)]
    theirs = [replace(records[seed], cpu_seconds=10.0) for seed in (1, 2, 3)]
    found = cpu_ratio(ours, theirs)
    assert (found.mean, found.low, found.high, found.seeds) == pytest.approx((2.0, 2.0, 2.0, 2))
    assert cpu_ratio(ours[:1], theirs) is None


def test_nothing_on_the_page_names_a_host_a_user_or_a_folder(whole_study):
    file = whole_study.folder.config_file
    address = "postgresql+psycopg://jane@db.example.org:5432/team"
    text = file.read_text().replace("address: local", "address: head-node:6379").replace("url: null", f"url: {address}")
    file.write_text(text.replace("warm_start: null", "warm_start: /home/jane doe/studies/first"))
    note_launch(whole_study.folder, {})
    page = render(load_report_data(whole_study.folder))
    for name in ("jane", "example.org", "head-node", "secret-host", str(whole_study.folder.root)):
        assert name not in page, name
    assert "warm_start: …/first" in page and "address: …" in page and "url: postgresql+psycopg://…" in page
    assert "Folders and addresses are left out" in page


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("OSError: /home/jane/data.txt is full", "OSError: …/data.txt is full"),
        ("(/data/x/train.py, line 3)", "(…/train.py, line 3)"),
        ("~/models/one and ~jane/models", "…/one and ~jane/models"),
        ("read and/or write, 3/4, n/a", "read and/or write, 3/4, n/a"),
        ("organisation/model at a/b/c", "organisation/model at a/b/c"),
        ("</script> </b>", "</script> </b>"),
        ("lost 10.0.0.7:6379, torch 2.13.0", "lost …, torch 2.13.0"),
        ("ray://head:10001/x failed", "ray://… failed"),
        ("/tmp", "/tmp"),
    ],
)
def test_paths_and_addresses_are_shortened_and_nothing_else_is(text, expected):
    assert shareable(text) == expected


def test_a_configs_lines_stay_what_they_are_but_for_folders_and_addresses():
    text = "task:\n  policy: /a b/c d/model one\n  name: x\nexecutor:\n  address: local\n  list:\n  - /a/b\n"
    expected = "task:\n  policy: …/model one\n  name: x\nexecutor:\n  address: local\n  list:\n  - …/b\n"
    assert shareable_yaml(text) == expected
