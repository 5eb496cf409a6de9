"""Every shipped config loads, resolves and comes back the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.config.load import builtin_folder, find_config, load_config, parse_config
from pipeline.config.schema import StudyConfig
from tests.support.studies import tiny_config


@pytest.mark.parametrize("path", sorted(builtin_folder().glob("*.yaml")), ids=lambda path: path.stem)
def test_builtin_config_loads_and_round_trips(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem
    assert parse_config(yaml.safe_load(config.to_yaml()), "again") == config


def test_builtin_config_is_found_by_name_and_by_its_path_in_the_repository() -> None:
    found = {find_config(name).resolve() for name in ("quickstart", "quickstart.yaml", "configs/quickstart.yaml")}
    assert found == {builtin_folder().resolve() / "quickstart.yaml"}


def test_a_file_wins_over_a_builtin_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quickstart.yaml").write_text("name: mine\n")
    assert load_config(find_config("quickstart.yaml")).name == "mine"


def test_overrides_reach_nested_values_and_keep_their_types() -> None:
    config = load_config(find_config("quickstart"), ("ppo.steps=3", "search.seeds=[5, 6]", "executor.name=local"))
    assert (config.ppo.steps, config.search.seeds, config.executor.name) == (3, (5, 6), "local")


def test_defaults_make_a_complete_study_of_a_name() -> None:
    config = StudyConfig(name="x")
    assert config.base_shape().active_methods() == {"sparse": 1.0}
    assert [arm.name for arm in config.make_space().baselines()] == ["sparse", "prefix", "attention", "shapley"]


def test_discounting_is_possible_when_asked_for() -> None:
    config = tiny_config(shape={"gamma": 0.9, "policy_preserving": False})
    assert config.base_shape().gamma == 0.9


@pytest.mark.parametrize(
    ("stop_at_eos", "shape", "closure"),
    [
        (True, {}, "first"),
        (True, {"unit": "token"}, "first"),
        (True, {"closure": "last"}, "last"),
        (True, {"closure": "spread"}, "spread"),
        (False, {}, "last"),
    ],
)
def test_where_responses_may_end_no_constant_falls_on_their_ends_unless_asked_for(
    stop_at_eos: bool, shape: dict[str, str], closure: str
) -> None:
    config = tiny_config(shape=shape, sampling={"response_tokens": 6, "stop_at_eos": stop_at_eos})
    assert config.shape.closure == config.base_shape().closure == closure
    # What is kept of a study says it, so that a copy of it does not depend on today's default.
    assert f"closure: {closure}" in config.to_yaml()
    assert StudyConfig.model_validate(config.model_dump()) == config
