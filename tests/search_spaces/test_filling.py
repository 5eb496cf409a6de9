"""Points that fill a space evenly."""

import pytest
from scipy.stats import kstest

from search_spaces import filling, make_space
from shaping import METHODS, Shape

MIXABLE = tuple(sorted(set(METHODS) - {"sparse"}))
SPACES = {
    "mix": make_space("credit_mix", base=Shape(), methods=MIXABLE[:3]),
    "every method": make_space("credit_mix", base=Shape(), methods=MIXABLE),
    "bounded": make_space("credit_mix", base=Shape(), methods=MIXABLE[:3], balance=(0.3, 0.8)),
    "fixed balance": make_space("credit_mix", base=Shape(), methods=MIXABLE[:3], balance=(1.0, 1.0)),
    "balance": make_space("balance", base=Shape(), methods=("prefix",), gae_lambda=(0.6, 1.0), balance=(0.2, 0.9)),
    "lambda alone": make_space("credit_mix", base=Shape(), methods=("prefix",), balance=(1.0, 1.0)),
    "full": make_space("full", base=Shape(max_units=12), methods=("prefix", "shapley")),
}


@pytest.mark.parametrize("name", SPACES)
def test_points_are_of_the_space_and_differ(name):
    space = SPACES[name]
    points = filling(space, 64, seed=3)
    assert len({tuple(point.items()) for point in points}) == 64
    for point in points:
        assert set(point) == {parameter.name for parameter in space.parameters()}
        encoded = space.encode(space.decode(point))
        assert encoded == pytest.approx(point) if name != "full" else encoded.keys() == point.keys()
    assert points == filling(space, 64, seed=3) != filling(space, 64, seed=4)


def test_weights_are_uniform_on_their_simplex():
    # Each of 4 shares of a uniform point has the distribution 1 - (1 - x)^3, sparse's too.
    rows = [SPACES["mix"].decode(point).weights for point in filling(SPACES["mix"], 1024, seed=0)]
    for name in (*MIXABLE[:3], "sparse"):
        assert kstest([row[name] for row in rows], lambda x: 1 - (1 - x) ** 3).pvalue > 0.05


def test_bounded_balance_is_uniform_in_volume():
    rows = [SPACES["bounded"].decode(point).weights for point in filling(SPACES["bounded"], 1024, seed=0)]
    spread = [1 - row["sparse"] for row in rows]
    assert min(spread) >= 0.3 and max(spread) <= 0.8
    assert kstest(spread, lambda x: (x**3 - 0.3**3) / (0.8**3 - 0.3**3)).pvalue > 0.05


def test_unit_and_budget_take_all_their_values_evenly():
    points = filling(SPACES["full"], 512, seed=0)
    units = [point["unit"] for point in points]
    assert all(150 <= units.count(unit) <= 190 for unit in ("token", "span", "sentence"))
    # On a log scale half of the budgets lie below the geometric mean of 16 and 128.
    assert 236 <= sum(point["budget"] < 45.25 for point in points) <= 276


def test_no_points_are_no_points():
    assert filling(SPACES["mix"], 0, seed=0) == []
