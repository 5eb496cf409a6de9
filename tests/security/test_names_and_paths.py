"""Names, paths and files of others stay what they are: no other folder, no object, no code."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.load import load_config, parse_config
from pipeline.report.load import load_report_data
from pipeline.report.page import write_report
from pipeline.runtime.files import write_json
from pipeline.study.folder import StudyFolder
from pipeline.tasks import corpora as wheel_files
from pipeline.tasks.asset_cache import MANIFEST, build_once, is_complete
from pipeline.tasks.corpora import WheelFile
from shaping.certificate import Certificate
from shaping.errors import ConfigError, ShapetuneError
from shaping.shape import Shape
from shaping.shape_file import ShapeFile, checksum
from tests.support.reports.synthetic_study import SyntheticStudy

NAMES = [
    "../x",
    "..",
    ".",
    "/tmp/x",
    "a/b",
    "a\\b",
    "a\0b",
    "a\n",
    "-rf",
    "~x",
    "$(id)",
    "`id`",
    "a;id",
    "a b",
    "a'",
    "",
]
NAMES += ["a\u202eb", "x" * 81, "\u2024\u2024", "con:", "%2e%2e", "{0}", "<b>"]


@pytest.mark.parametrize("name", NAMES)
def test_a_study_name_is_one_harmless_word(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        parse_config({"name": name}, "test")


@settings(deadline=None)
@given(st.text(max_size=12) | st.text("./\\-a~\0\n ", max_size=6))
def test_a_study_stands_inside_the_folder_of_studies(name: str) -> None:
    try:
        config = parse_config({"name": name}, "test")
    except ConfigError:
        return
    studies = Path("/studies")
    assert Path(os.path.normpath(StudyFolder(studies / config.name).root)).parent == studies


@settings(deadline=None)
@given(st.text(max_size=20) | st.text("./\\-a \0\n", max_size=12))
def test_runs_on_fresh_seeds_stay_inside_their_study(arm: str) -> None:
    folder = StudyFolder(Path("/studies/one"))
    place = folder.confirm_folder(arm, 100)
    assert place.parent == folder.confirm and "\0" not in str(place)
    assert Path(os.path.normpath(place)).parent == folder.confirm
    assert len(place.name.encode()) <= 255


def test_arms_keep_folders_of_their_own() -> None:
    folder = StudyFolder(Path("/studies/one"))
    arms = ["a/b", "a.b", "a\\b", "a_b", "../a", "x" * 300, "x" * 301]
    assert len({folder.confirm_folder(arm, 100) for arm in arms}) == len(arms)
    assert folder.confirm_folder("sparse, lambda 1", 100).name == "sparse-lambda-1-100"
    assert folder.confirm_folder("place 2, 8_0", 100).name == "place-2-8_0-100"


@pytest.mark.parametrize(
    "text",
    [
        "name: !!python/object/apply:os.system ['touch planted']",
        "name: !!python/name:os.system",
        "!!python/object/new:os.system ['touch planted']",
        "name: !!python/module:os",
        "name: a\nsearch: {seeds: !!python/tuple [1, 2]}",
    ],
)
def test_yaml_makes_no_objects(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="is not YAML"):
        load_config(file)
    file.write_text("name: a")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_config(file, (f"name={text.removeprefix('name: ')}", "x=!!python/name:os.system"))
    assert not (tmp_path / "planted").exists()
    assert yaml.safe_load("!!str a") == "a"


def test_a_comment_of_a_config_is_no_part_of_it(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("# name: other\n# $(touch planted) `id` <script> {{ x }}\nname: own # : ../x\n")
    assert load_config(file).name == "own"


def test_a_link_in_a_study_is_replaced_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_text("mine")
    study = SyntheticStudy(tmp_path / "study")
    for file in (study.folder.trial_folder(0) / "result.json", study.folder.report_file):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to(outside)
    write_json(study.folder.trial_folder(0) / "result.json", {"a": 1})
    (study.folder.trial_folder(0) / "result.json").unlink()
    write_report(load_report_data(study.folder), study.folder.report_file)
    assert outside.read_text() == "mine" and not study.folder.report_file.is_symlink()


def test_a_study_behind_a_link_is_the_same_study(tmp_path: Path) -> None:
    study = SyntheticStudy(tmp_path / "disk" / "study")
    (tmp_path / "link").symlink_to(study.folder.root)
    folder = StudyFolder.existing(tmp_path / "link")
    assert folder.config() == study.config
    assert write_report(load_report_data(folder), folder.report_file).resolve() == study.folder.report_file


def test_only_numbered_folders_are_trials(tmp_path: Path) -> None:
    study = SyntheticStudy(tmp_path / "study")
    study.search()
    before = len(load_report_data(study.folder).trials)
    for name in ("..x", "1;id", "-1", "<b>", "1e3"):
        study.write(study.folder.trials / name / "trial.json", {"index": 0, "arm": "x", "origin": "x"})
    assert len(load_report_data(study.folder).trials) == before


def a_wheel(folder: Path, member: str, content: bytes) -> WheelFile:
    with zipfile.ZipFile(folder / "a-1-py3-none-any.whl", "w") as archive:
        archive.writestr(member, content)
        archive.writestr("../../escaped.txt", b"escaped")
        archive.writestr("/tmp/escaped-absolute.txt", b"escaped")
    return WheelFile("data", "a==1", "0" * 64, member, hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("member", ["a/data.txt", "../../data.txt", "/data.txt", "a/../../../data.txt"])
def test_a_member_of_a_wheel_lands_in_the_cache_alone(
    member: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, cache = tmp_path / "source", tmp_path / "deep" / "cache"
    source.mkdir()
    file = a_wheel(source, member, b"content")
    monkeypatch.setattr(wheel_files, "download_wheel", lambda *_: source / "a-1-py3-none-any.whl")
    assert wheel_files.fetch(file, cache) == cache / "downloads" / "data.txt"
    found = [path for path in tmp_path.rglob("*") if path.is_file() and source not in path.parents]
    assert found == [cache / "downloads" / "data.txt"]
    assert not Path("/tmp/escaped-absolute.txt").exists()


def test_a_member_with_another_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = a_wheel(tmp_path, "data.txt", b"content")
    other = WheelFile(file.content, file.wheel, file.wheel_sha256, file.member, "0" * 64)
    monkeypatch.setattr(wheel_files, "download_wheel", lambda *_: tmp_path / "a-1-py3-none-any.whl")
    with pytest.raises(ShapetuneError, match="altered content"):
        wheel_files.fetch(other, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("data.txt"))


@pytest.mark.parametrize(
    "content", ["[1]", "null", '"x"', "{}", '{"files": []}', '{"files": {"a": 1}}', '{"files": {"a": [1]}}', "\xff"]
)
def test_a_manifest_of_another_form_is_no_asset(content: str, tmp_path: Path) -> None:
    folder = build_once(tmp_path, "thing", {}, lambda place: {"x": (place / "a").write_text("a")})
    assert is_complete(folder)
    (folder / MANIFEST).write_bytes(content.encode("latin-1"))
    assert not is_complete(folder)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below, max_size=3),
    max_leaves=6,
)
FIELDS = st.dictionaries(st.sampled_from(sorted(Shape().to_dict())), JSON, max_size=4)


@settings(deadline=None)
@given(JSON | FIELDS | st.fixed_dictionaries({"weights": st.dictionaries(st.sampled_from(["prefix", "x"]), JSON)}))
def test_an_exported_file_holds_a_shape_or_is_refused(tmp_path_factory: pytest.TempPathFactory, values: Any) -> None:
    content = {**ShapeFile(Shape(), 0.05).to_dict(), "shape": values}
    file = tmp_path_factory.mktemp("export") / "shape.json"
    # Whoever alters a file can sign it anew: the checksum guards against accidents.
    file.write_text(json.dumps({**content, "checksum_sha256": checksum(json.loads(json.dumps(content)))}))
    try:
        assert isinstance(Shape.load(file), Shape)
    except ConfigError:
        pass


@pytest.mark.parametrize("name", ["largest_error", "responses", "gamma", "causal"])
def test_a_certificate_holds_numbers(name: str) -> None:
    kept = Certificate.empty(Shape()).to_dict()
    assert Certificate.from_dict(kept) == Certificate.empty(Shape())
    with pytest.raises((TypeError, ValueError)):
        Certificate.from_dict({**kept, name: "<script>"})
