import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import SPACES, CreditMix, make_space
from shaping import METHODS, ConfigError, Shape

MIXABLE = tuple(sorted(set(METHODS) - {"sparse"}))
EXACT = st.just(0.0)
BASE = Shape(budget=32, unit="token", closure="spread")
modest = settings(derandomize=True, deadline=None, max_examples=200)


def space_of(count=4, **changes):
    return CreditMix(BASE, MIXABLE[:count], **changes)


@st.composite
def spaces_and_points(draw, off=EXACT):
    """Return a space and a point of it, each coordinate moved by a draw of ``off``."""
    space = space_of(draw(st.integers(1, len(MIXABLE))))
    names = [parameter.name for parameter in space.parameters()]
    weights = [name for name in names if name.startswith("weight_")]
    parts = draw(st.lists(st.floats(0, 1), min_size=len(weights) + 1, max_size=len(weights) + 1))
    total = math.fsum(parts) or 1.0
    point = {name: part / total for name, part in zip(weights, parts, strict=False)}
    point |= {"balance": draw(st.floats(0, 1)), "gae_lambda": draw(st.floats(0.6, 1))}
    return space, {name: value + draw(off) for name, value in point.items()}


@modest
@given(given=spaces_and_points())
def test_every_point_decodes_to_a_shape_on_the_simplex(given):
    space, point = given
    shape = space.decode(point)
    assert set(shape.weights) == set(space.methods)
    assert math.fsum(shape.weights.values()) == pytest.approx(1, abs=1e-9)
    assert min(shape.weights.values()) >= 0
    for method in space.methods[:-1]:
        assert shape.weights[method] == pytest.approx(point[f"weight_{method}"], abs=1e-9)
    assert (shape.balance, shape.gae_lambda) == (point["balance"], point["gae_lambda"])
    unvaried = ("unit", "max_span", "max_units", "budget", "closure", "gamma", "policy_preserving")
    assert [getattr(shape, name) for name in unvaried] == [getattr(BASE, name) for name in unvaried]


@modest
@given(given=spaces_and_points())
def test_shape_of_the_space_survives_encoding(given):
    space, point = given
    shape = space.decode(point)
    assert space.decode(space.encode(shape)) == shape


def test_shape_of_a_point_just_beyond_the_face_survives_encoding():
    # The sum is 1 + 1e-12; divided by it, the weights still do not sum to 1 exactly.
    weights = (0.10683334097475201, 0.4062487006158855, 0.4753595054936883, 0.01155845291577423)
    point = {f"weight_{method}": weight for method, weight in zip(MIXABLE, weights, strict=False)}
    space = space_of(5)
    shape = space.decode({**point, "balance": 0.5, "gae_lambda": 0.8})
    assert space.decode(space.encode(shape)) == shape
    assert MIXABLE[4] not in space.decode(space.encode(shape)).active_methods()


@modest
@given(given=spaces_and_points(off=st.sampled_from([0.0, 1e-12, -1e-12, 3e-13, -3e-13, 1e-9])))
def test_point_that_rounding_moved_off_a_face_still_decodes(given):
    space, point = given
    inside = {name: min(max(value, 0.0), 1.0) for name, value in point.items() if not name.startswith("weight_")}
    shape = space.decode({**point, **inside})
    assert math.fsum(shape.weights.values()) == pytest.approx(1, abs=1e-12)
    assert min(shape.weights.values()) >= 0


@pytest.mark.parametrize(
    ("weights", "last"),
    [
        ((0.5, 0.5 + 1e-12, 0.0), 0.0),
        ((1.0 + 1e-12, 0.0, 0.0), 0.0),
        ((-3e-13, 0.4, 0.3), 0.3),
        ((-3e-13, 1.0, -3e-13), 0.0),
        ((0.1, 0.2, 0.7), 0.0),
    ],
)
def test_points_on_and_just_off_the_face(weights, last):
    space = space_of(4)
    point = {f"weight_{method}": weight for method, weight in zip(MIXABLE, weights, strict=False)}
    shape = space.decode({**point, "balance": 0.5, "gae_lambda": 0.8})
    assert shape.weights[MIXABLE[3]] == pytest.approx(last, abs=1e-11)
    for method, weight in zip(MIXABLE, weights, strict=False):
        assert shape.weights[method] == pytest.approx(weight, abs=2e-12)


@pytest.mark.parametrize("name", ["balance", "gae_lambda"])
@pytest.mark.parametrize("edge", [0.0, 1.0])
def test_bound_that_rounding_overstepped_still_decodes(name, edge):
    # The outer loop accepts points up to 1e-8 outside the bounds as inside (pipeline/face_tolerance.py).
    outward = edge + (1e-12 if edge else -1e-12)
    point = {"balance": 0.5, "gae_lambda": 0.8, name: outward}
    assert getattr(space_of(1, gae_lambda=(0.0, 1.0)).decode(point), name) == edge


def test_parameters_are_the_free_weights_and_the_open_ranges():
    space = space_of(3, gae_lambda=(0.7, 0.9), balance=(0.5, 0.5))
    found = {parameter.name: tuple(parameter.bounds) for parameter in space.parameters()}
    assert found == {f"weight_{MIXABLE[0]}": (0, 1), f"weight_{MIXABLE[1]}": (0, 1), "gae_lambda": (0.7, 0.9)}
    assert {parameter.parameter_type for parameter in space.parameters()} == {"float"}
    assert space.constraints() == [f"weight_{MIXABLE[0]} + weight_{MIXABLE[1]} <= 1"]
    shape = space.decode({f"weight_{MIXABLE[0]}": 0.25, f"weight_{MIXABLE[1]}": 0.25, "gae_lambda": 0.8})
    assert (shape.balance, shape.gae_lambda, shape.weights[MIXABLE[2]]) == (0.5, 0.8, 0.5)


@pytest.mark.parametrize("count", [1, 2])
def test_one_free_weight_needs_no_constraint(count):
    assert space_of(count).constraints() == []


@pytest.mark.parametrize("count", range(1, len(MIXABLE) + 1))
def test_baselines_are_sparse_then_each_method_alone(count):
    space = space_of(count)
    shapes = {arm.name: space.decode(arm.point) for arm in space.baselines()}
    assert list(shapes) == ["sparse", *MIXABLE[:count]]
    assert shapes["sparse"].active_methods() == {"sparse": 1.0}
    assert shapes["sparse"].gae_lambda == BASE.gae_lambda
    for method in MIXABLE[:count]:
        assert shapes[method].active_methods() == {method: 1.0}
        assert shapes[method].gae_lambda == 0.8


def test_baselines_stay_inside_the_bounds():
    space = space_of(3, gae_lambda=(0.85, 0.9), balance=(0.2, 0.7))
    for arm in space.baselines():
        assert set(arm.point) == {parameter.name for parameter in space.parameters()}
        for parameter in space.parameters():
            assert parameter.bounds[0] <= arm.point[parameter.name] <= parameter.bounds[1]


def test_shape_with_a_foreign_method_has_no_point():
    with pytest.raises(ConfigError, match="sparse is not mixed"):
        space_of(2).encode(Shape(weights={MIXABLE[0]: 0.5, "sparse": 0.5}))
    assert space_of(2).encode(Shape(weights={MIXABLE[0]: 1.0, "sparse": 0.0}))[f"weight_{MIXABLE[0]}"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ("magic",)}, "'magic' cannot be mixed"),
        ({"methods": ("prefix", "sparse")}, "'sparse' cannot be mixed"),
        ({"methods": ()}, "space.methods"),
        ({"methods": ("prefix", "prefix")}, "each method once"),
        ({"gae_lambda": (0.9, 0.6)}, "space.gae_lambda"),
        ({"gae_lambda": (0.6, 1.1)}, "space.gae_lambda"),
        ({"gae_lambda": (0.6,)}, "space.gae_lambda"),
        ({"balance": (-0.1, 1.0)}, "space.balance"),
        ({"balance": (0.0, math.nan)}, "space.balance"),
        ({"balance": (0.0, 0.0)}, "space.balance"),
    ],
)
def test_bad_space_is_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        CreditMix(**{"base": BASE, "methods": ("prefix",), **options})


def test_registry_makes_the_space_of_a_name():
    options = {"base": BASE, "gae_lambda": (0.6, 1.0), "balance": (0.0, 1.0)}
    assert make_space("credit_mix", methods=("prefix", "lime"), **options) == CreditMix(
        methods=("prefix", "lime"), **options
    )
    balance = make_space("balance", methods=("prefix",), **options)
    assert [parameter.name for parameter in balance.parameters()] == ["balance", "gae_lambda"]
    assert balance.decode({"balance": 0.25, "gae_lambda": 0.7}).active_methods() == {"prefix": 0.25, "sparse": 0.75}


@pytest.mark.parametrize("methods", [(), ("prefix", "lime")])
def test_balance_space_takes_one_method(methods):
    with pytest.raises(ConfigError, match="one method"):
        SPACES["balance"](BASE, methods, (0.6, 1.0), (0.0, 1.0))


def test_unknown_space_is_refused():
    with pytest.raises(ConfigError, match=r"space\.name: 'fuller'"):
        make_space("fuller")
