"""Shapes and settings of the trainer as one space: points there and back, and the rivals among its first arms."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import BaselineArm, Candidate, SettingChoice, SettingRange, StudySpace, is_without_credit, make_space
from search_spaces.filling import filling
from shaping.errors import ConfigError
from shaping.shape import Shape

BASE = Shape(gae_lambda=0.95)
RATE = SettingRange("ppo.learning_rate", 2e-4, 1.6e-3, log=True)
CRITIC = SettingChoice("ppo.critic", ("value_head", "network", "reward_model"))
EPOCHS = SettingRange("ppo.num_ppo_epochs", 1, 4, whole=True)
SIZE = SettingChoice("ppo.batch_size", (32, 8, 16))
OWN = {"ppo.learning_rate": 8e-4, "ppo.critic": "value_head", "ppo.num_ppo_epochs": 2, "ppo.batch_size": 16}


def space(*settings: Any, **options: Any) -> StudySpace:
    given_options = {"methods": ("prefix", "uniform"), "gae_lambda": (0.0, 1.0), **options}
    shapes = make_space("credit_mix", base=BASE, **given_options)
    return StudySpace(shapes, settings, {each.name: OWN[each.name] for each in settings})


ALL = space(RATE, CRITIC, EPOCHS, SIZE)


def test_without_settings_it_is_the_space_of_shapes() -> None:
    shapes, whole = make_space("credit_mix", base=BASE, methods=("prefix", "uniform"), gae_lambda=(0.0, 1.0)), space()
    assert whole.parameters() == shapes.parameters() and whole.constraints() == shapes.constraints()
    assert whole.baselines() == shapes.baselines()
    assert filling(whole, 5, seed=3) == filling(shapes, 5, seed=3)
    point = {"weight_prefix": 0.25, "weight_uniform": 0.5, "gae_lambda": 0.5}
    assert whole.decode(point) == Candidate(shapes.decode(point))


@given(st.lists(st.floats(0, 1), min_size=7, max_size=7))
def test_a_point_of_anywhere_comes_back(numbers: list[float]) -> None:
    point = ALL.at(numbers)
    candidate = ALL.decode(point)
    assert ALL.decode(ALL.encode(candidate)) == candidate
    assert set(candidate.trainer) == set(OWN) and candidate.trainer["ppo.critic"] in CRITIC.choices
    assert 2e-4 <= float(candidate.trainer["ppo.learning_rate"]) <= 1.6e-3
    assert isinstance(candidate.trainer["ppo.num_ppo_epochs"], int)


def test_a_log_scale_is_filled_evenly_on_its_own_scale() -> None:
    rates = [float(point["ppo.learning_rate"]) for point in filling(ALL, 512, seed=0)]
    below = sum(rate < (2e-4 * 1.6e-3) ** 0.5 for rate in rates)
    assert abs(below / 512 - 0.5) < 0.02
    critics = [point["ppo.critic"] for point in filling(ALL, 512, seed=0)]
    assert all(abs(critics.count(each) / 512 - 1 / 3) < 0.02 for each in CRITIC.choices)


def test_parameters_reach_ax_as_what_they_are() -> None:
    rate, critic, epochs, size = ALL.parameters()[3:]
    assert (rate.scaling, rate.parameter_type, rate.bounds) == ("log", "float", (2e-4, 1.6e-3))
    assert (critic.parameter_type, critic.is_ordered) == ("str", False)
    assert (epochs.parameter_type, epochs.bounds) == ("int", (1, 4))
    assert (size.parameter_type, size.is_ordered, size.values) == ("int", True, [8, 16, 32])


def test_a_setting_that_a_candidate_leaves_out_has_the_studys_value() -> None:
    point = ALL.encode(Candidate(Shape(weights={"prefix": 1.0}, gae_lambda=0.5), {"ppo.critic": "network"}))
    assert {name: point[name] for name in OWN} == {**OWN, "ppo.critic": "network"}


def test_the_rivals_are_points_of_the_space_and_come_first() -> None:
    arms = ALL.baselines()
    assert [arm.name for arm in arms] == [
        "sparse",
        "sparse, lambda 1",
        "sparse, network critic",
        "sparse, reward-model critic",
        "prefix",
        "uniform",
    ]
    tried = {arm.name: ALL.decode(arm.point) for arm in arms}
    assert tried["sparse"] == Candidate(
        BASE.with_changes(weights={**dict.fromkeys(("prefix", "uniform"), 0.0), "sparse": 1.0}), OWN
    )
    assert tried["sparse, lambda 1"].shape.gae_lambda == 1.0
    assert 0.1 <= tried["sparse, reward-model critic"].shape.gae_lambda <= 0.6
    assert tried["sparse, reward-model critic"].trainer == {**OWN, "ppo.critic": "reward_model"}
    assert tried["sparse, network critic"].trainer["ppo.critic"] == "network"
    without = {name for name, each in tried.items() if is_without_credit(each.shape)}
    assert without == set(tried) - {"prefix"}


def test_rivals_that_the_bounds_leave_out_are_no_arms() -> None:
    narrow = space(CRITIC, gae_lambda=(0.5, 0.9))
    assert [arm.name for arm in narrow.baselines()] == ["sparse", "prefix", "uniform"]
    assert all(narrow.encode(narrow.decode(arm.point)) == arm.point for arm in narrow.baselines())
    dense = space(CRITIC, balance=(0.5, 1.0))
    assert [arm.name for arm in dense.baselines()] == ["prefix", "uniform"]


def test_what_is_not_of_the_space_is_refused() -> None:
    point = ALL.at([0.5] * 7)
    with pytest.raises(ConfigError, match=r"lacks ppo.critic"):
        ALL.decode({name: value for name, value in point.items() if name != "ppo.critic"})
    with pytest.raises(ConfigError, match=r"ppo.critic = 'oracle' is none of value_head, network"):
        ALL.decode({**point, "ppo.critic": "oracle"})
    with pytest.raises(ConfigError, match=r"ppo.learning_rate = 0.01 is outside space.trainer.ppo.learning_rate"):
        ALL.encode(Candidate(BASE, {"ppo.learning_rate": 1e-2}))
    with pytest.raises(ConfigError, match=r"ppo.vf_coef is not searched"):
        ALL.encode(Candidate(BASE, {"ppo.vf_coef": 1.0}))
    with pytest.raises(ConfigError, match="no number"):
        ALL.decode({**point, "ppo.learning_rate": float("nan")})


def test_what_rounding_pushed_out_of_bounds_is_put_back() -> None:
    point = {**ALL.at([0.5] * 7), "ppo.learning_rate": 1.6e-3 * (1 + 1e-12)}
    assert ALL.decode(point).trainer["ppo.learning_rate"] == 1.6e-3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SettingRange("ppo.x", 2, 1), "is no range; give low below high|is no range"),
        (lambda: SettingRange("ppo.x", 0, 1, log=True), "log scale cannot begin at low = 0"),
        (lambda: SettingRange("ppo.x", 1, 2.5, whole=True), "whole number"),
        (lambda: SettingChoice("ppo.x", (1, 1)), "names a value twice"),
        (lambda: SettingChoice("ppo.x", (1,)), "leaves no choice"),
        (lambda: SettingChoice("ppo.x", (1, "one")), "mixes numbers and words"),
    ],
)
def test_settings_that_cannot_be_searched_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_candidate_says_what_it_is() -> None:
    candidate = Candidate(
        Shape(weights={"prefix": 1.0}, gae_lambda=0.5), {"ppo.learning_rate": 4e-4, "ppo.critic": "value_head"}
    )
    assert candidate.describe() == "1.00 prefix, lambda 0.50; learning rate 0.0004; critic value head"
    assert isinstance(ALL.baselines()[0], BaselineArm)
