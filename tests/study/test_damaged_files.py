"""Files of a study that are damaged: named, never silently taken for something else, and made anew once removed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from pipeline.cli import _run
from pipeline.runtime.files import DamagedFileError, read_json, read_saved
from pipeline.trainers.ppo.checkpoint import Checkpoint, previous_checkpoint, read_checkpoint, write_checkpoint
from tests.support.launches import write_config

# Whole studies, launched again and again.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_ax_analyses")]

DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "bytes": lambda content: bytes(range(128, 256)) * 4,
    "null": lambda content: b"null",
    "list": lambda content: b"[1]",
    "object": lambda content: b'{"a": 1}',
}
# File to the commands that read it.
READERS = {
    "trials/0/trial.json": ("launch", "status", "report"),
    "trials/0/result.json": ("status", "report"),
    "trials/2/seed-0.json": ("launch",),
    "winner.json": ("launch", "report", "export"),
    "confirm/winner-100/result.json": ("launch", "report"),
    "verdict.json": ("report", "export"),
    "study.yaml": ("launch", "report", "export"),
}


@pytest.fixture(scope="module")
def finished(without_ax_analyses: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    assert _run(["launch", str(write_config(folder, "local", 0.0)), "--studies", str(folder / "studies")]) == 0
    return folder


@pytest.fixture
def study(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished study."""
    shutil.copytree(finished / "studies" / "s", tmp_path / "studies" / "s")
    return tmp_path / "studies" / "s"


def command(name: str, finished: Path, study: Path) -> list[str]:
    if name == "launch":
        return ["launch", str(finished / "config.yaml"), "--studies", str(study.parent)]
    # Ax's own analyses read the database alone, and take seconds.
    return [name, str(study), *(["--no-ax"] if name == "report" else [])]


@pytest.mark.parametrize("file", READERS)
def test_a_damaged_file_is_named_and_made_anew_once_it_is_removed(
    file: str, finished: Path, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, before = study / file, (study / file).read_bytes()
    for damage, change in DAMAGES.items():
        for reader in READERS[file]:
            path.write_bytes(change(before))
            code = _run(command(reader, finished, study))
            said = capsys.readouterr()
            # A launch writes the verdict anew from the runs; nothing else may pass for the file that was there.
            assert code == 2, (damage, reader, said.out)
            assert path.name in said.err and "Traceback" not in said.err and len(said.err) < 1000, (damage, reader)
            path.write_bytes(before)
    if file == "study.yaml":
        return
    path.unlink()
    assert _run(command("launch", finished, study)) == 0
    if "seed" not in file:  # a finished trial's seeds are in its result, too
        assert json.loads(path.read_text()) == json.loads(before)
    assert all(_run(command(name, finished, study)) == 0 for name in ("status", "report", "export"))


@pytest.mark.parametrize("damage", ["cut", "bytes", "another", "removed"])
def test_a_damaged_or_foreign_database_is_refused_and_left_alone(
    damage: str, finished: Path, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, before = study / "study.db", (study / "study.db").read_bytes()
    if damage == "removed":
        path.unlink()
    elif damage == "another":
        other = write_config(tmp_path / "other", "local", 0.0)
        changes = ["--set", "search.trials=5", "--set", "confirm.seeds=[]"]
        assert _run(["launch", str(other), "--studies", str(tmp_path / "other"), *changes]) == 0
        path.write_bytes((tmp_path / "other" / "s" / "study.db").read_bytes())
    else:
        path.write_bytes(DAMAGES[damage](before))
    damaged = path.read_bytes() if path.exists() else b""
    capsys.readouterr()
    assert _run(command("launch", finished, study)) == 2
    said = capsys.readouterr().err
    assert "study.db" in said and "Traceback" not in said and len(said) < 1000
    assert (path.read_bytes() if path.exists() and damage != "removed" else b"") == damaged
    # What was found stands in the folder, whatever became of the database.
    assert all(_run(command(name, finished, study)) == 0 for name in ("status", "report", "export"))


def test_a_folder_of_a_newer_version_is_refused(
    finished: Path, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = yaml.safe_load((study / "study.yaml").read_text())
    assert values["study_format"] == 1
    (study / "study.yaml").write_text(yaml.safe_dump({**values, "study_format": 2, "tomorrow": True}))
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    for name in ("launch", "report", "export"):
        assert _run(command(name, finished, study)) == 2
        said = capsys.readouterr().err
        assert "a newer version of shapetune began this study" in said and "upgrade" in said
    assert {path: path.read_bytes() for path in study.rglob("*") if path.is_file()} == before


def test_a_read_only_folder_is_refused_before_anything_is_written(
    finished: Path, study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Root may write anywhere, so that the system is asked in its place.
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)
    assert _run(command("launch", finished, study)) == 2
    assert "cannot be written" in capsys.readouterr().err


def checkpoint(number: float) -> Checkpoint:
    return Checkpoint({"a": torch.full((7, 3), number), "b": torch.arange(4)}, {"run": "x", "curve": [number]})


@pytest.mark.parametrize("place", [0.1, 0.5, 0.7, 0.9, 0.999])
def test_one_flipped_bit_falls_back_to_the_checkpoint_before(place: float, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    write_checkpoint(path, checkpoint(1.0))
    write_checkpoint(path, checkpoint(2.0))
    whole = read_checkpoint(path)
    assert (
        whole is not None
        and whole.values["curve"] == [2.0]
        and torch.equal(whole.tensors["a"], checkpoint(2.0).tensors["a"])
    )
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(content)
    found = read_checkpoint(path)
    assert (
        found is not None
        and found.values["curve"] == [1.0]
        and torch.equal(found.tensors["a"], checkpoint(1.0).tensors["a"])
    )
    previous_checkpoint(path).unlink()
    assert read_checkpoint(path) is None


def test_a_kill_between_the_two_renames_leaves_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    write_checkpoint(path, checkpoint(1.0))
    path.rename(previous_checkpoint(path))
    found = read_checkpoint(path)
    assert found is not None and found.values["curve"] == [1.0]


def test_a_file_that_says_something_else_is_damaged_and_one_that_is_not_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    assert read_json(path) is None and read_saved(path, lambda kept: kept["a"]) is None
    path.write_text('{"b": 1}')
    with pytest.raises(DamagedFileError, match=r"(?s)x\.json is damaged: KeyError.*remove it"):
        read_saved(path, lambda kept: kept["a"])
    assert read_saved(path, lambda kept: kept["b"]) == 1


def test_code_of_the_users_own_that_fails_at_once_ends_the_study_and_costs_no_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path, "local", 0.0)
    values = yaml.safe_load(path.read_text())
    values["executor"]["retries"] = 0
    values["trainer"]["options"] = {}  # the trainer reads its options
    path.write_text(yaml.safe_dump(values))
    arguments = ["launch", str(path), "--studies", str(tmp_path / "studies")]
    assert _run(arguments) == 2
    said = capsys.readouterr().err
    assert "no run came to its end; two arms failed" in said and "KeyError: 'seconds' (slow_trainer.py, line " in said
    assert not list(tmp_path.glob("studies/s/trials/*/failure.json"))
    traces = [
        json.loads(line) for line in next(tmp_path.glob("studies/s/trials/0/failures-*.jsonl")).read_text().splitlines()
    ]
    assert "slow_trainer.py" in traces[0]["trace"]
