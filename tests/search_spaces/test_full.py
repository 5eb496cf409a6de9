"""The full space, and spaces of one's own."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import Full, make_space
from shaping import ConfigError, Shape

BASE = Shape(unit="span", max_units=12, budget=32)
METHODS = ("prefix", "attention", "shapley")


def space(**changes):
    return Full(**{"base": BASE, "methods": METHODS, **changes})


@st.composite
def points(draw):
    first = draw(st.floats(0, 1))
    second = draw(st.floats(0, 1)) * (1 - first)
    return {
        "weight_prefix": first,
        "weight_attention": second,
        "weight_shapley": draw(st.floats(0, 1)) * (1 - first - second),
        "gae_lambda": draw(st.floats(0.6, 1)),
        "unit": draw(st.sampled_from(["token", "span", "sentence"])),
        "budget": draw(st.integers(16, 128)),
    }


@settings(derandomize=True, deadline=None, max_examples=200)
@given(point=points())
def test_shape_of_the_space_survives_encoding_and_takes_unit_and_budget(point):
    shape = space().decode(point)
    assert space().decode(space().encode(shape)) == shape
    assert (shape.unit, shape.budget, shape.max_units) == (point["unit"], point["budget"], 12)
    assert shape.weights["prefix"] == pytest.approx(point["weight_prefix"], abs=1e-9)


def test_parameters_are_the_mixs_with_unit_and_budget():
    names = [parameter.name for parameter in space().parameters()]
    assert names == ["weight_prefix", "weight_attention", "weight_shapley", "gae_lambda", "unit", "budget"]
    fixed = space(units=("token",), budget=(64, 64))
    assert [parameter.name for parameter in fixed.parameters()] == names[:4]
    weights = {"weight_prefix": 0.2, "weight_attention": 0.3, "weight_shapley": 0.1}
    shape = fixed.decode({**weights, "gae_lambda": 0.9})
    assert (shape.unit, shape.budget) == ("token", 64)


def test_baselines_stand_at_the_bases_unit_and_the_nearest_budget():
    arms = {arm.name: arm.point for arm in space(budget=(64, 128)).baselines()}
    assert list(arms) == ["sparse", *METHODS]
    assert {(point["unit"], point["budget"]) for point in arms.values()} == {("span", 64)}
    for name, point in arms.items():
        assert set(space().decode(point).active_methods()) == {name}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("prefix", "attention")}, "none of them has units"),
        ({"units": ("span", "word")}, "space.units"),
        ({"units": ()}, "space.units"),
        ({"budget": (2, 9)}, "space.budget"),
        ({"budget": (64, 32)}, "space.budget"),
        ({"base": Shape(max_units=8)}, "changes nothing with shape.max_units = 8"),
        ({"base": Shape(budget_tokens=500)}, "shape.budget_tokens = 500"),
    ],
)
def test_space_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message) as refusal:
        space(**changes)
    assert refusal.value.hint


def test_point_or_shape_outside_the_space_is_refused():
    point = space().baselines()[0].point
    with pytest.raises(ConfigError, match="not of this space"):
        space().decode({**point, "unit": "word"})
    with pytest.raises(ConfigError, match="not of this space"):
        space().decode({**point, "budget": float("nan")})
    with pytest.raises(ConfigError, match="unit = sentence is not in"):
        space(units=("token", "span")).encode(BASE.with_changes(weights={"prefix": 1.0}, unit="sentence"))
    with pytest.raises(ConfigError, match=r"balance = 0.1 is outside space.balance = \[0.5, 1\]"):
        space(balance=(0.5, 1.0)).encode(BASE.with_changes(weights={"prefix": 1.0}, balance=0.1))


def test_space_of_ones_own_is_found_by_its_import_path():
    own = make_space(
        "tests.search_spaces.own_space:lambda_only",
        base=BASE,
        methods=METHODS,
        gae_lambda=(0.7, 0.9),
        balance=(0.0, 1.0),
        units=("token",),
        budget=(16, 16),
    )
    assert [parameter.name for parameter in own.parameters()] == ["gae_lambda"]
    assert own.decode({"gae_lambda": 0.8}).active_methods() == {"prefix": 1.0}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:space", "No module named"),
        ("tests.search_spaces.own_space:missing", "missing"),
        ("tests.search_spaces.own_space:NUMBER", "is a int"),
        ("mixture", "is unknown"),
    ],
)
def test_space_that_cannot_be_found_is_refused(name, message):
    with pytest.raises(ConfigError, match=message) as refusal:
        make_space(name)
    assert refusal.value.hint
