"""What a study exports: its winner, with everything that gives it its meaning."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.export.export import export_shape, shape_of
from pipeline.runtime.files import write_json
from pipeline.study.folder import StudyFolder
from pipeline.trials.arm import Arm
from shaping.errors import ConfigError
from shaping.shape import Shape
from shaping.shape_file import ShapeFile
from tests.support.studies import tiny_config

SHAPE = Shape(weights={"prefix": 0.25, "shapley": 0.75}, balance=0.875, gae_lambda=0.7123456789012345)


def study_with(tmp_path: Path, winner: Arm | None, **changes: object) -> StudyFolder:
    folder = StudyFolder(tmp_path / "study")
    folder.create(tiny_config(**changes))
    if winner is not None:
        write_json(folder.winner_file, winner.to_dict())
    return folder


def test_the_shape_comes_back_exactly_with_what_gives_it_meaning(tmp_path: Path) -> None:
    folder = study_with(tmp_path, Arm("7_0", SHAPE))
    folder.trial_folder(7).mkdir(parents=True)
    write_json(folder.ranking_file, [{"index": 7, "arm": "7_0", "mean": 1.0, "deviation": 0.1, "from_model": True}])
    exported = export_shape(folder, folder.config(), ("judge", "abc"), tmp_path / "export")
    found = ShapeFile.read(exported)
    assert found.shape == SHAPE == Shape.load(exported, "abc")
    assert (found.kl_coef, found.kl_estimator, found.critic) == (0.05, "k1", "value_head")
    assert (found.reward_model, found.reward_model_sha256) == ("judge", "abc")
    assert found.study == {"name": "tiny", "task": "sentiment", "arm": "7_0", "trial": 7, "trials": 1, "seeds": [0, 1]}
    assert found.confirmed is None
    assert {"shapetune", "torch"} <= set(found.versions)


def test_what_was_confirmed_goes_with_it(tmp_path: Path) -> None:
    folder = study_with(tmp_path, Arm("7_0", SHAPE))
    difference = {"rival": "sparse", "mean": 0.5, "low": 0.25, "high": 0.75, "seeds": 6}
    single = {**difference, "low": float("-inf"), "high": float("inf"), "seeds": 1}
    kept = {"winner": "7_0", "differences": [difference, single], "text": ["better"], "other": 1}
    write_json(folder.verdict_file, kept)
    file = shape_of(folder, folder.config(), None)
    unbounded = {**single, "low": None, "high": None}
    assert file.confirmed == {"differences": [difference, unbounded], "text": ["better"]}
    export_shape(folder, folder.config(), None, tmp_path / "export")
    assert ShapeFile.read(tmp_path / "export" / "shape.json") == file
    assert file.reward_model_sha256 is None


def test_a_scaled_reward_leaves_as_an_unscaled_one_whose_kl_is_cheaper(tmp_path: Path) -> None:
    scaled = {"ppo": {"reward_scale": 2.0, "kl_coef": 0.05}, "shape": {"policy_preserving": False}}
    folder = study_with(tmp_path, Arm("7_0", SHAPE), **scaled)
    assert shape_of(folder, folder.config(), None).kl_coef == 0.025


def test_the_critic_of_a_winning_baseline_is_its_own(tmp_path: Path) -> None:
    folder = study_with(tmp_path, Arm.with_critic("sparse, reward-model critic", Shape(), "reward_model"))
    assert shape_of(folder, folder.config(), None).critic == "reward_model"


def test_a_study_without_a_winner_has_nothing_to_export(tmp_path: Path) -> None:
    folder = study_with(tmp_path, None)
    with pytest.raises(ConfigError, match="no winner"):
        export_shape(folder, folder.config(), ("judge", "abc"), tmp_path / "export")
    assert not (tmp_path / "export").exists()
