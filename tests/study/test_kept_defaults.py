"""A study goes on with the defaults that it was begun with; what its config says is held against what it said then."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.load import parse_config
from pipeline.study.examined import examined
from pipeline.study.folder import StudyFolder
from shaping.errors import ConfigError

PLAIN = {"name": "begun", "trainer": {"function": "any:trainer"}}
NARROW = (0.6, 1.0)


def begun(folder: Path, **space: object) -> StudyFolder:
    study = StudyFolder(folder / "begun")
    study.create(parse_config({**PLAIN, "space": space}, "test"))
    return study


def test_bounds_of_lambda_that_the_config_leaves_unsaid_stay_those_of_the_study(tmp_path: Path) -> None:
    begun(tmp_path, gae_lambda=NARROW)
    config = parse_config(PLAIN, "test")
    assert config.space.gae_lambda == (0.0, 1.0)
    assert examined(config, tmp_path).config.space.gae_lambda == NARROW
    # And in a new study they are those of this version.
    assert examined(config, tmp_path / "elsewhere").config == config


def test_bounds_that_the_config_says_are_held_against_those_of_the_study(tmp_path: Path) -> None:
    begun(tmp_path, gae_lambda=NARROW)
    with pytest.raises(ConfigError, match="gae_lambda"):
        examined(parse_config({**PLAIN, "space": {"gae_lambda": [0.0, 1.0]}}, "test"), tmp_path)
