"""``space.trainer`` as a user writes it, and what becomes of it in a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.load import load_config, parse_config
from pipeline.config.trainer_space import with_settings
from shaping.errors import ConfigError
from tests.support.studies import tiny_config, tiny_values

RATE = {"low": 1e-4, "high": 1e-2, "log": True}
CRITICS = ["value_head", "network"]
OWN_TRAINER = {"function": "tests.support.slow_trainer:train", "options": {"depth": 2, "style": "plain"}}


def with_space(searched: Any, **changes: Any) -> Any:
    values = tiny_values(**changes)
    return {**values, "space": {**values.get("space", {}), "trainer": searched}}


def refused(searched: Any, **changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(with_space(searched, **changes), "study.yaml")
    return str(caught.value).replace("\n", "; ")


def test_a_study_without_it_is_written_as_it_always_was() -> None:
    plain = tiny_config().model_dump(mode="json")
    assert "trainer" not in plain["space"] and "objective" not in plain


@pytest.mark.parametrize(
    "written",
    [
        {"ppo.critic": CRITICS, "ppo.learning_rate": RATE},
        {"ppo": {"critic": CRITICS, "learning_rate": RATE}},
        {"ppo.critic": CRITICS, "ppo": {"learning_rate": {**RATE, "low": "1e-4"}}},
    ],
)
def test_dotted_and_nested_names_are_the_same(written: Any, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(with_space(written)).replace("'1e-4'", "1e-4"))
    config = load_config(path)
    assert config.space.trainer == {"ppo.critic": CRITICS, "ppo.learning_rate": RATE}
    assert parse_config(yaml.safe_load(config.to_yaml()), "again") == config


def test_an_override_replaces_what_the_file_says_of_one_setting(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(with_space({"ppo.critic": CRITICS, "ppo.learning_rate": RATE})))
    changed = load_config(path, ("space.trainer.ppo.learning_rate.high=0.05", "space.trainer.ppo.critic=null"))
    assert changed.space.trainer == {"ppo.learning_rate": {**RATE, "high": 0.05}}
    assert load_config(path, ("space.trainer={}",)).space.trainer == {}
    assert load_config(path, ("space.trainer=null",)).space.trainer == {}


@pytest.mark.parametrize(
    ("searched", "message"),
    [
        ({"ppo.critics": CRITICS}, "space.trainer.ppo.critics is no setting of a trainer; choose from ppo.critic"),
        ({"critic": CRITICS}, "space.trainer.critic is no setting"),
        ({"ppo.device": ["cpu", "cuda"]}, "space.trainer.ppo.device cannot be searched; set ppo.device itself"),
        ({"ppo.steps": [5, 10]}, "cannot be searched"),
        ({"ppo.critic": ["value_head", "oracle"]}, "space.trainer.ppo.critic = 'oracle'"),
        ({"ppo.critic": ["network", "reward_model"]}, "leaves out ppo.critic = value_head, at which the first arms"),
        ({"ppo.critic": ["value_head"]}, "leaves no choice"),
        ({"ppo.critic": "network"}, "neither a range nor a list"),
        ({"ppo.critic": [CRITICS]}, "neither number nor word"),
        ({"ppo.learning_rate": {"low": 1e-2, "high": 1e-4}}, "is no range; give low below high"),
        ({"ppo.learning_rate": {"low": 0, "high": 1, "log": True}}, "log scale cannot begin at low = 0"),
        ({"ppo.learning_rate": {"low": 1e-4, "high": 2}}, "space.trainer.ppo.learning_rate = 2"),
        ({"ppo.learning_rate": {"low": 1e-4}}, "is no range; write"),
        ({"ppo.learning_rate": {"low": 1e-4, "high": 1e-2, "scale": "log"}}, "is no range; write"),
        ({"ppo.learning_rate": {"low": "small", "high": 1e-2}}, "bounds are numbers"),
        ({"ppo.learning_rate": {**RATE, "log": 2}}, "neither true nor false"),
        ({"ppo.num_mini_batches": {"low": 1, "high": 64}}, "is more than the"),
        ({"ppo.num_ppo_epochs": {"low": 1, "high": 2.5}}, "whole number"),
        ({"ppo.critic": CRITICS, "ppo": {"critic": CRITICS}}, "space.trainer.ppo.critic is named twice"),
        ({"trainer.options.depth": [1, 2]}, "there is no custom trainer that reads it"),
        (["ppo.critic"], "is no mapping"),
    ],
)
def test_bad_input_is_refused_by_field_value_and_remedy(searched: Any, message: str) -> None:
    assert message in refused(searched)


def test_a_setting_that_would_change_nothing_is_refused() -> None:
    once = {"num_ppo_epochs": 1, "num_mini_batches": 1}
    assert "no ratio leaves 1" in refused({"ppo.cliprange": {"low": 0.1, "high": 0.3}}, ppo=once)
    assert "trainer.function trains" in refused({"ppo.learning_rate": RATE}, trainer=OWN_TRAINER)


def test_options_of_a_custom_trainer_are_searched_under_their_names() -> None:
    searched = {"trainer.options.depth": {"low": 1, "high": 4}, "trainer.options.style": ["plain", "fancy"]}
    config = parse_config(with_space(searched, trainer=OWN_TRAINER), "study.yaml")
    depth, style = config.make_space().settings
    assert depth.whole and style.choices == ("plain", "fancy")
    run = with_settings(config, {"trainer.options.depth": 3})
    assert run.trainer is not None and run.trainer.options == {"depth": 3, "style": "plain"}
    assert "has no value to begin at" in refused({"trainer.options.width": [1, 2]}, trainer=OWN_TRAINER)


def test_a_run_trains_at_its_own_price_of_kl_and_is_judged_at_the_studys() -> None:
    config = tiny_config(ppo={"kl_coef": 0.05})
    run = with_settings(config, {"ppo.kl_coef": 0.4, "ppo.critic": "network"})
    assert run.ppo.kl_coef == 0.4 and run.kl_price == 0.05 and run.ppo.critic == "network"
    priced = with_settings(tiny_config(objective={"kl_price": 0.2}), {"ppo.kl_coef": 0.4})
    assert priced.kl_price == 0.2
    assert with_settings(config, {}) is config
    with pytest.raises(ConfigError, match="no setting of the config's trainer"):
        with_settings(config, {"trainer.options.depth": 3})
