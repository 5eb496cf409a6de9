"""Spaces and searches as a user writes them in a config."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.load import load_config
from pipeline.config.schema import StudyConfig
from shaping.errors import ConfigError
from tests.support.studies import tiny_config, tiny_values

OWN = """
from search_spaces import CreditMix

def lambda_only(base, methods, gae_lambda, balance):
    return CreditMix(base, ("prefix",), gae_lambda, (1.0, 1.0))
"""


def written(folder: Path, **changes: Any) -> StudyConfig:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(tiny_values(**changes)))
    return load_config(path)


def test_the_full_space_takes_units_and_budget() -> None:
    space = {"name": "full", "methods": ["prefix", "shapley"], "units": ["token", "span"], "budget": [16, 64]}
    config = tiny_config(space=space, shape={"max_units": 12})
    names = [parameter.name for parameter in config.make_space().parameters()]
    assert names == ["weight_prefix", "weight_shapley", "gae_lambda", "unit", "budget"]


def test_a_space_of_ones_own_is_found_beside_the_config_and_travels_as_an_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    config = written(tmp_path, space={"name": "mine.py:lambda_only"}, search={"trials": 2})
    assert config.space.name == f"{tmp_path / 'mine.py'}:lambda_only"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    again = StudyConfig.model_validate(config.model_dump(mode="json"))
    assert [parameter.name for parameter in again.make_space().parameters()] == ["gae_lambda"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.py:space", "there is no file"),
        ("broken.py:space", "a mistake of mine"),
        ("mine.py:other", "other"),
        ("mixture", "'mixture' is unknown"),
    ],
)
def test_a_space_that_cannot_be_made_is_refused_by_its_field(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "broken.py").write_text("raise RuntimeError('a mistake of mine')")
    with pytest.raises(ConfigError, match=rf"(?s)space.*{message}"):
        written(tmp_path, space={"name": name})


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"constraints": {"kl_nats": -1}}, "search.constraints.kl_nats"),
        ({"constraints": {"kl": 1}}, "search.constraints.kl is not a known key"),
        ({"early_stopping": {"worst_percent": 100}}, "search.early_stopping.worst_percent"),
        ({"early_stopping": {"least_trials": 1}}, "search.early_stopping.least_trials"),
        ({"objective": "best"}, "search.objective"),
        ({"model": "forest"}, "search.model"),
        ({"first_arms": -1}, "search.first_arms"),
    ],
)
def test_bad_search_settings_are_refused_by_name(search: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        tiny_config(search={"trials": 6, **search})


@pytest.mark.parametrize("search", [{"constraints": {"kl_over_sparse": 2.0}}, {"objective": "gain"}])
def test_what_is_measured_against_sparse_needs_it_in_the_space(search: dict[str, Any]) -> None:
    space = {"methods": ["prefix"], "balance": [0.2, 1.0]}
    with pytest.raises(ConfigError, match=r"needs the sparse arm; let space.balance begin at 0"):
        tiny_config(space=space, search={"trials": 6, **search})
    assert tiny_config(search={"trials": 6, **search})


@pytest.mark.parametrize("executor", [{"cpus": 0}, {"gpus": -0.5}, {"slots": 0}])
def test_bad_resources_are_refused_by_name(executor: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"executor\.{next(iter(executor))}"):
        tiny_config(executor=executor)
