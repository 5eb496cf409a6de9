"""Bounds that a search ran into: found at the winner and in the model, never where nothing lies beyond."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from pipeline.config.load import parse_config
from pipeline.search.bounds import BoundReached, bounds_reached
from search_spaces import Candidate, Point
from shaping.shape import Shape
from tests.support.studies import tiny_values

RATE = {"low": 1e-4, "high": 1e-2, "log": True}


def reached(
    gae_lambda: float, rate: float = 1e-3, best: Any = None, bounds: tuple[float, float] = (0.6, 1.0), **trainer: Any
) -> list[BoundReached]:
    """What is found of a winner with a lambda and a rate; ``best`` is the J that the model believes of a point."""
    space = {"methods": ["prefix"], "gae_lambda": list(bounds), "trainer": {"ppo.learning_rate": RATE, **trainer}}
    config = parse_config(tiny_values(space=space), "study")

    def predict(points: Sequence[Point]) -> list[tuple[float, float]] | None:
        return None if best is None else [(float(best(point)), 0.1) for point in points]

    settings: dict[str, Any] = {"ppo.learning_rate": rate}
    winner = Candidate(Shape(weights={"prefix": 1.0}, gae_lambda=gae_lambda), settings)
    return list(bounds_reached(config, config.make_space(), winner, predict))


def test_a_winner_inside_all_bounds_has_reached_none() -> None:
    assert reached(0.8) == []
    assert reached(0.8, best=lambda point: -abs(float(point["gae_lambda"]) - 0.8)) == []
    assert reached(0.8, best=lambda point: 1.0) == []


def test_a_winner_on_a_bound_is_said_with_the_line_that_widens_it() -> None:
    [found] = reached(0.6)
    assert found == BoundReached("gae_lambda", 0.6, True, "space.gae_lambda: [0.0, 1.0]")
    assert "The winner stands on a bound of the space, gae_lambda = 0.6" in found.words()
    assert found.words().endswith("to look beyond it: space.gae_lambda: [0.0, 1.0]")
    assert BoundReached.from_dict(found.to_dict()) == found
    [high] = reached(0.8, rate=1e-2)
    assert high.remedy == "space.trainer.ppo.learning_rate: {low: 0.0001, high: 0.04, log: true}"
    [low] = reached(0.8, rate=1.01e-4)
    assert low.remedy == "space.trainer.ppo.learning_rate: {low: 2.5e-05, high: 0.01, log: true}"


@pytest.mark.parametrize(
    "line", ["space.gae_lambda=[0.0, 1.0]", "space.trainer.ppo.learning_rate={low: 2.5e-05, high: 0.01, log: true}"]
)
def test_the_line_is_one_that_a_config_takes(line: str, tmp_path: Any) -> None:
    import yaml

    from pipeline.config.load import load_config

    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(tiny_values(space={"methods": ["prefix"], "trainer": {"ppo.learning_rate": RATE}})))
    assert load_config(path, (line,)).make_space()


def test_where_nothing_lies_beyond_a_bound_none_is_reached() -> None:
    assert reached(1.0) == []
    assert reached(0.0, bounds=(0.0, 1.0)) == []
    # A batch has one minibatch at least, and lambda 0.8 stands inside.
    mini = {"ppo.num_mini_batches": {"low": 1, "high": 4}}
    assert reached(0.8, **mini) == []


def test_the_models_optimum_on_a_bound_is_said_where_the_winner_is_inside() -> None:
    found = reached(0.8, best=lambda point: -float(point["gae_lambda"]))
    assert [(each.parameter, each.bound, each.by_winner) for each in found] == [("gae_lambda", 0.6, False)]
    assert found[0].words().startswith("By the search's model the best place is on a bound of the space")
    [rate] = reached(0.8, best=lambda point: float(point["ppo.learning_rate"]))
    assert (rate.parameter, rate.bound, rate.by_winner) == ("ppo.learning_rate", 1e-2, False)
