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
    balance = draw(st.sampled_from([(0.0, 1.0), (0.0, 0.7), (0.25, 0.8), (1.0, 1.0), (0.4, 0.4)]))
    space = space_of(draw(st.integers(1, len(MIXABLE))), balance=balance)
    weights = [name for name in (parameter.name for parameter in space.parameters()) if name.startswith("weight_")]
    opened = balance[0] < balance[1]
    # All of these sum to the balance, or, where that is fixed, with the last method's to 1.
    count = len(weights) if opened else len(weights) + 1
    parts = draw(st.lists(st.floats(0, 1), min_size=count, max_size=count))
    parts = parts if math.fsum(parts) > 0 else [1.0] * count
    whole = draw(st.sampled_from([*balance, sum(balance) / 2]) | st.floats(*balance)) if opened else 1.0
    point = {name: whole * part / math.fsum(parts) for name, part in zip(weights, parts, strict=False)}
    point |= {"gae_lambda": draw(st.floats(0.6, 1))}
    return space, {name: value + draw(off) for name, value in point.items()}


def spread(shape):
    """Return the methods' weights together, as shares of the reward."""
    return math.fsum(weight for name, weight in shape.weights.items() if name != "sparse") * shape.balance


@modest
@given(given=spaces_and_points())
def test_every_point_decodes_to_a_shape_on_the_simplex(given):
    space, point = given
    shape = space.decode(point)
    assert set(shape.weights) - {"sparse"} == set(space.methods)
    assert ("sparse" in shape.weights) == (space.balance[0] < space.balance[1])
    assert math.fsum(shape.weights.values()) == pytest.approx(1, abs=1e-9)
    assert min(shape.weights.values()) >= 0
    assert space.balance[0] - 1e-9 <= spread(shape) <= space.balance[1] + 1e-9
    for name in set(point) - {"gae_lambda"}:
        assert shape.weights[name.removeprefix("weight_")] == pytest.approx(point[name], abs=1e-8)
    assert shape.gae_lambda == point["gae_lambda"]
    unvaried = ("unit", "max_span", "max_units", "budget", "closure", "gamma", "policy_preserving")
    assert [getattr(shape, name) for name in unvaried] == [getattr(BASE, name) for name in unvaried]


@modest
@given(given=spaces_and_points())
def test_shape_of_the_space_survives_encoding(given):
    space, point = given
    shape = space.decode(point)
    assert space.decode(space.encode(shape)) == shape


def test_weights_that_sum_to_one_up_to_rounding_survive_encoding():
    # The four sum to 1 + 2e-16: whoever divides them by it changes the last digit of three.
    weights = (0.5192885711174916, 0.1298221427793729, 0.1298221427793729, 0.22106714332376273)
    space = CreditMix(Shape(), MIXABLE[:5], balance=(1.0, 1.0))
    free = [name for name in space.bounds if name.startswith("weight_")]
    shape = space.decode({**dict(zip(free, weights, strict=True)), "gae_lambda": 1.0})
    assert space.decode(space.encode(shape)) == shape


def test_shape_of_a_point_just_beyond_the_face_survives_encoding():
    # The sum is 1 + 1e-12; divided by it, the weights still do not sum to 1 exactly.
    weights = (0.10683334097475201, 0.4062487006158855, 0.4753595054936883, 0.01155845291577423)
    point = {f"weight_{method}": weight for method, weight in zip(MIXABLE, weights, strict=False)}
    space = space_of(4)
    shape = space.decode({**point, "gae_lambda": 0.8})
    assert space.decode(space.encode(shape)) == shape
    assert "sparse" not in space.decode(space.encode(shape)).active_methods()


@modest
@given(given=spaces_and_points(off=st.sampled_from([0.0, 1e-12, -1e-12, 3e-13, -3e-13, 1e-9])))
def test_point_that_rounding_moved_off_a_face_still_decodes(given):
    space, point = given
    shape = space.decode(point)
    assert math.fsum(shape.weights.values()) == pytest.approx(1, abs=1e-12)
    assert min(shape.weights.values()) >= 0
    assert space.balance[0] - 1e-9 <= spread(shape) <= space.balance[1] + 1e-9
    assert 0 <= shape.gae_lambda <= 1


@pytest.mark.parametrize(
    ("weights", "sparse"),
    [
        ((0.5, 0.5 + 1e-12, 0.0), 0.0),
        ((1.0 + 1e-12, 0.0, 0.0), 0.0),
        ((-3e-13, 0.4, 0.3), 0.3),
        ((-3e-13, 1.0, -3e-13), 0.0),
        ((0.1, 0.2, 0.7), 0.0),
        ((-3e-13, 0.0, 3e-13), 1.0),
    ],
)
def test_points_on_and_just_off_the_faces(weights, sparse):
    point = {f"weight_{method}": weight for method, weight in zip(MIXABLE, weights, strict=False)}
    shape = space_of(3).decode({**point, "gae_lambda": 0.8})
    assert shape.weights["sparse"] == pytest.approx(sparse, abs=1e-11)
    for method, weight in zip(MIXABLE, weights, strict=False):
        assert shape.weights[method] == pytest.approx(weight, abs=2e-12)


@pytest.mark.parametrize("edge", [0.0, 1.0])
def test_bound_that_rounding_overstepped_still_decodes(edge):
    # The outer loop accepts points up to 1e-8 outside the bounds as inside (pipeline/search/ax_patches.py).
    outward = edge + (1e-12 if edge else -1e-12)
    space = space_of(1, gae_lambda=(0.0, 1.0))
    weight = f"weight_{MIXABLE[0]}"
    assert space.decode({weight: 0.5, "gae_lambda": outward}).gae_lambda == edge
    assert space.decode({weight: outward, "gae_lambda": 0.8}).weights[MIXABLE[0]] == edge


def test_parameters_are_the_free_weights_and_the_open_ranges():
    space = space_of(3, gae_lambda=(0.7, 0.9), balance=(0.5, 0.5))
    found = {parameter.name: tuple(parameter.bounds) for parameter in space.parameters()}
    assert found == {f"weight_{MIXABLE[0]}": (0, 1), f"weight_{MIXABLE[1]}": (0, 1), "gae_lambda": (0.7, 0.9)}
    assert {parameter.parameter_type for parameter in space.parameters()} == {"float"}
    assert space.constraints() == [f"weight_{MIXABLE[0]} + weight_{MIXABLE[1]} <= 1"]
    shape = space.decode({f"weight_{MIXABLE[0]}": 0.25, f"weight_{MIXABLE[1]}": 0.25, "gae_lambda": 0.8})
    assert (shape.balance, shape.gae_lambda, shape.weights[MIXABLE[2]]) == (0.5, 0.8, 0.5)


def test_an_open_balance_makes_sparse_one_of_the_weights():
    space = space_of(2, balance=(0.25, 0.75))
    one, other = (f"weight_{method}" for method in MIXABLE[:2])
    bounds = {parameter.name: tuple(parameter.bounds) for parameter in space.parameters()}
    assert bounds == {one: (0, 0.75), other: (0, 0.75), "gae_lambda": (0.6, 1.0)}
    assert space.constraints() == [f"{one} + {other} <= 0.75", f"{one} + {other} >= 0.25"]
    shape = space.decode({one: 0.25, other: 0.125, "gae_lambda": 0.8})
    assert shape.weights == {MIXABLE[0]: 0.25, MIXABLE[1]: 0.125, "sparse": 0.625}
    assert shape.balance == 1


def test_one_method_has_its_bounds_and_needs_no_constraint():
    space = space_of(1, balance=(0.2, 0.9))
    assert tuple(space.parameters()[0].bounds) == (0.2, 0.9)
    assert space.constraints() == space_of(2, balance=(1.0, 1.0)).constraints() == []


def test_a_shape_that_says_the_same_with_a_balance_has_the_same_point():
    space = space_of(2)
    weights, names = {MIXABLE[0]: 0.5, MIXABLE[1]: 0.25, "sparse": 0.25}, ("weights", "balance", "gae_lambda")
    point = space.encode(BASE.with_changes(**dict(zip(names, (weights, 0.5, 0.8), strict=True))))
    assert point == {f"weight_{MIXABLE[0]}": 0.25, f"weight_{MIXABLE[1]}": 0.125, "gae_lambda": 0.8}


@pytest.mark.parametrize("extra", ["balance", "weight_sparse"])
def test_a_point_of_another_space_is_refused(extra):
    with pytest.raises(ConfigError, match="not of this space"):
        space_of(1).decode({f"weight_{MIXABLE[0]}": 0.5, "gae_lambda": 0.8, extra: 0.5})
    with pytest.raises(ConfigError, match="not of this space"):
        space_of(1).decode({"gae_lambda": 0.8})


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
    with pytest.raises(ConfigError, match=f"{MIXABLE[3]} is not mixed"):
        space_of(2).encode(Shape(weights={MIXABLE[0]: 0.5, MIXABLE[3]: 0.5}))
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
    assert [parameter.name for parameter in balance.parameters()] == ["weight_prefix", "gae_lambda"]
    assert balance.decode({"weight_prefix": 0.25, "gae_lambda": 0.7}).active_methods() == {
        "prefix": 0.25,
        "sparse": 0.75,
    }


@pytest.mark.parametrize("methods", [(), ("prefix", "lime")])
def test_balance_space_takes_one_method(methods):
    with pytest.raises(ConfigError, match="one method"):
        SPACES["balance"](BASE, methods, (0.6, 1.0), (0.0, 1.0))


def test_unknown_space_is_refused():
    with pytest.raises(ConfigError, match=r"space\.name: 'fuller'"):
        make_space("fuller")
