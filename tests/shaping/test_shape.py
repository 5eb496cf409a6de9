import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shaping import METHODS, ConfigError, Shape
from shaping.closure import close
from shaping.shape import ABSENT, CLOSURES, UNITS
from tests.support.models.tiny_models import make_rollouts

modest = settings(derandomize=True, deadline=None, max_examples=50)


@st.composite
def shapes(draw):
    names = draw(st.lists(st.sampled_from(sorted(METHODS)), min_size=1, unique=True))
    parts = draw(st.lists(st.floats(0.01, 1), min_size=len(names), max_size=len(names)))
    gamma = draw(st.floats(0, 1))
    return Shape(
        weights={name: part / sum(parts) for name, part in zip(names, parts, strict=True)},
        balance=draw(st.floats(0, 1)),
        unit=draw(st.sampled_from(UNITS)),
        absent=draw(st.sampled_from(ABSENT)),
        max_span=draw(st.integers(1, 9)),
        max_units=draw(st.integers(1, 40)),
        budget=draw(st.integers(1, 999)),
        closure=draw(st.sampled_from(CLOSURES)),
        gamma=gamma,
        gae_lambda=draw(st.floats(0, 1)),
        policy_preserving=gamma == 1 and draw(st.booleans()),
    )


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("weights", {}, "weights is empty"),
        ("weights", {"magic": 1.0}, "weights: method 'magic' is unknown"),
        ("weights", {"prefix": 0.5, "sparse": 0.4}, "weights sum to 0.9"),
        ("weights", {"prefix": 0.6, "sparse": 0.6}, "weights sum to 1.2"),
        ("weights", {"prefix": 1.5, "sparse": -0.5}, "weights.prefix = 1.5 is not between"),
        ("weights", {"sparse": 1.5, "prefix": -0.5}, "weights.sparse"),
        ("weights", {"prefix": math.nan, "sparse": 1.0}, "weights.prefix = nan"),
        ("weights", {"prefix": "all"}, "weights.prefix = 'all'"),
        ("weights", {"prefix": True}, "weights.prefix = True"),
        ("weights", ["prefix"], "weights"),
        ("weights", None, "weights"),
        ("balance", -0.1, "balance = -0.1"),
        ("balance", 1.01, "balance = 1.01"),
        ("balance", math.inf, "balance = inf"),
        ("balance", None, "balance = None"),
        ("gamma", 1.1, "gamma = 1.1"),
        ("gamma", 0.99, "gamma = 0.99 changes the optimal policy"),
        ("gae_lambda", 2, "gae_lambda = 2"),
        ("gae_lambda", math.nan, "gae_lambda = nan"),
        ("max_span", 0, "max_span = 0"),
        ("max_span", 2.0, "max_span = 2.0"),
        ("max_units", -1, "max_units = -1"),
        ("max_units", True, "max_units = True"),
        ("budget", 0, "budget = 0"),
        ("budget", "64", "budget = '64'"),
        ("unit", "word", "unit = 'word'"),
        ("absent", "blank", "absent = 'blank' is unknown\nchoose one of delete, mask, attention"),
        ("absent", None, "absent = None is unknown"),
        ("closure", "middle", "closure = 'middle'"),
        ("policy_preserving", "no", "policy_preserving"),
    ],
)
def test_bad_value_is_refused_by_name(field, value, message):
    with pytest.raises(ConfigError, match="^" + message.replace(".", r"\.")):
        Shape(**{field: value})


def test_unknown_key_is_refused():
    with pytest.raises(ConfigError, match="unknown keys: beta, lambda"):
        Shape.from_dict({"lambda": 0.9, "beta": 1.0})


def test_change_is_checked():
    with pytest.raises(ConfigError, match="budget = 0"):
        Shape().with_changes(budget=0)


def test_discount_is_allowed_when_asked_for():
    assert Shape(gamma=0.9, policy_preserving=False).gamma == 0.9


@modest
@given(shape=shapes())
def test_shape_survives_pickle_and_dict(shape):
    assert pickle.loads(pickle.dumps(shape)) == shape
    assert Shape.from_dict(shape.to_dict()) == shape
    assert hash(pickle.loads(pickle.dumps(shape))) == hash(shape)
    assert type(shape.to_dict()["weights"]) is dict


@modest
@given(shape=shapes())
def test_order_of_weights_does_not_matter(shape):
    turned = shape.with_changes(weights=dict(reversed(shape.weights.items())))
    assert turned == shape
    assert hash(turned) == hash(shape)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"balance": 1}, {"balance": 1.0}),
        ({"weights": {"prefix": 1}}, {"weights": {"prefix": 1.0}}),
        ({"gae_lambda": 0.0}, {"gae_lambda": -0.0}),
    ],
)
def test_equal_shapes_have_equal_hashes(one, other):
    assert Shape(**one) == Shape(**other)
    assert hash(Shape(**one)) == hash(Shape(**other))


@pytest.mark.parametrize(
    "change", [{"balance": 0.5}, {"budget": 9}, {"closure": "spread"}, {"weights": {"prefix": 1.0}}]
)
def test_different_shapes_are_unequal(change):
    assert Shape(**change) != Shape()


def test_shape_does_not_follow_the_dict_it_was_made_of():
    weights = {"sparse": 1.0}
    shape = Shape(weights=weights)
    weights["sparse"] = 0.0
    assert shape.weights["sparse"] == 1.0
    with pytest.raises(TypeError):
        shape.weights["sparse"] = 0.5


@modest
@given(shape=shapes())
def test_shares_of_the_active_methods_sum_to_one(shape):
    shares = shape.active_methods()
    assert math.fsum(shares.values()) == pytest.approx(1, abs=1e-6)
    assert min(shares.values()) > 0
    for name, share in shares.items():
        rest = 1 - shape.balance if name == "sparse" else 0.0
        assert share == pytest.approx(shape.balance * shape.weights.get(name, 0.0) + rest)


def test_what_balance_leaves_goes_to_sparse():
    shape = Shape(weights={"prefix": 0.75, "sparse": 0.25, "lime": 0.0}, balance=0.5)
    assert shape.active_methods() == {"prefix": 0.375, "sparse": 0.625}
    assert Shape(weights={"prefix": 1.0}, balance=0.0).active_methods() == {"sparse": 1.0}


@modest
@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    closure=st.sampled_from(CLOSURES),
    seed=st.integers(0, 999),
)
def test_closure_makes_any_credit_sum_to_the_score(lengths, closure, seed):
    rollouts = make_rollouts([[1]] * len(lengths), [[9] * length for length in lengths], width=7)
    generator = torch.Generator().manual_seed(seed)
    mask = rollouts.response_mask
    credit = 3 * torch.randn(mask.shape, generator=generator) * mask
    scores = 5 * torch.randn(len(lengths), generator=generator)
    closed = close(credit, scores, rollouts, closure)
    expected = torch.where(rollouts.response_tokens > 0, scores, 0)
    torch.testing.assert_close(closed.sum(dim=1), expected, atol=1e-5, rtol=0)
    assert not closed[~mask].any()


def test_closure_places_the_residual():
    rollouts = make_rollouts([[1]] * 2, [[9, 9], [9, 9, 9, 9]])
    credit = torch.tensor([[1.0, 0, 0, 0], [0, 2.0, 0, 0]])
    scores = torch.tensor([3.0, 4.0])
    assert close(credit, scores, rollouts, "last").tolist() == [[1, 2, 0, 0], [0, 2, 0, 2]]
    assert close(credit, scores, rollouts, "spread").tolist() == [[2, 1, 0, 0], [0.5, 2.5, 0.5, 0.5]]
    assert close(credit, scores, rollouts, "first").tolist() == [[3, 0, 0, 0], [2, 2, 0, 0]]
    # What was added to the reward model's score is about the end.
    assert close(credit, scores, rollouts, "first", scores - 0.5).tolist() == [[2.5, 0.5, 0, 0], [1.5, 2, 0, 0.5]]
