"""The exported shape comes back exactly, and nothing else is taken for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.arm import Arm
from pipeline.export import checksum, export_shape, load_shape
from pipeline.study_folder import StudyFolder
from pipeline.trial import write_json
from shaping.errors import ConfigError
from shaping.shape import Shape
from tests.pipeline.studies import tiny_config

SHAPE = Shape(weights={"prefix": 0.25, "shapley": 0.75}, balance=0.875, gae_lambda=0.7123456789012345)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    folder = StudyFolder(tmp_path / "study")
    folder.create(tiny_config())
    write_json(folder.winner_file, Arm("7_0", SHAPE).to_dict())
    return export_shape(folder, tiny_config(), "abc", tmp_path / "export")


def test_the_shape_comes_back_exactly_with_what_gives_it_meaning(exported: Path) -> None:
    assert load_shape(exported) == load_shape(exported, "abc") == SHAPE
    content = json.loads(exported.read_text())
    assert content["ppo"] == {"kl_coef": 0.05, "kl_estimator": "k1", "critic": "value_head"}
    assert content["study"] == {"name": "tiny", "arm": "7_0", "task": "sentiment"}
    assert content["confirmed"] is None
    assert {"shapetune", "torch"} <= set(content["versions"])


@pytest.mark.parametrize("change", ["shape", "ppo", "reward_model_sha256"])
def test_altered_content_is_refused(change: str, exported: Path) -> None:
    content = json.loads(exported.read_text())
    content[change] = {"balance": 0.5} if isinstance(content[change], dict) else "def"
    exported.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="altered"):
        load_shape(exported)


def test_unknown_schema_is_refused(exported: Path) -> None:
    content = json.loads(exported.read_text()) | {"schema": "shapetune/shape/99"}
    exported.write_text(json.dumps({**content, "checksum_sha256": checksum(content)}))
    with pytest.raises(ConfigError, match="shapetune/shape/99"):
        load_shape(exported)


def test_another_reward_model_is_refused(exported: Path) -> None:
    with pytest.raises(ConfigError, match="another reward model"):
        load_shape(exported, "def")


@pytest.mark.parametrize("content", ["", "[]", "{", "null"])
def test_what_is_no_shape_file_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "shape.json").write_text(content)
    with pytest.raises(ConfigError, match=r"shape\.json"):
        load_shape(tmp_path / "shape.json")


def test_a_study_without_a_winner_has_nothing_to_export(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "study")
    folder.create(tiny_config())
    with pytest.raises(ConfigError, match="no winner"):
        export_shape(folder, tiny_config(), "abc", tmp_path / "export")
    assert not (tmp_path / "export").exists()
