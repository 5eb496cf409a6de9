"""The benchmark of scale: a part that is measured anew leaves the other one as it was."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import scale
from benchmarks.common import record

OVERHEAD = {"wall_seconds": [1.0, 2.0], "cpu_seconds": [1.0, 1.0], "resident_mib": [5.0, 6.0]}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (record, scale):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(scale, "measured_overhead", lambda url, trials: OVERHEAD)
    monkeypatch.setattr(scale, "measured_efficiency", lambda slots, seconds: 1.0 - slots / 100)
    return tmp_path


def measured(monkeypatch: pytest.MonkeyPatch, commit: str, *options: str) -> None:
    monkeypatch.setattr(scale, "current_commit", lambda: commit)
    # Parts may come from different machines, and say so.
    monkeypatch.setattr(scale, "machine", lambda: f"machine of {commit}")
    monkeypatch.setattr(sys, "argv", ["scale", *options])
    scale.main()


def test_a_part_that_is_measured_anew_leaves_the_other_one_as_it_was(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, "first")
    measured(monkeypatch, "second", "--parts", "overhead")
    found = json.loads((results / "scale.json").read_text())
    claims = {claim["name"]: claim["value"] for claim in found["claims"]}
    assert claims["scale.efficiency_16"] == pytest.approx(0.84)
    assert claims["scale.overhead_seconds_per_trial_500"] == pytest.approx(1.5)
    assert {name: part["commit"] for name, part in found["details"].items()} == {
        "overhead": "second",
        "efficiency": "first",
    }
    tables = (results / "scale.md").read_text()
    for commit in ("first", "second"):
        assert f"Commit {commit}, {record.today()}, machine of {commit}:" in tables


def test_other_sizes_are_shown_and_not_saved(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured(monkeypatch, "first", "--parts", "efficiency", "--slots", "16")
    assert "84.0 %" in capsys.readouterr().out and not (results / "scale.json").exists()
