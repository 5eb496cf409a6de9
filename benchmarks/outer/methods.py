"""Ways to search a landscape, each as a user would use it: what it proposes, and what it recommends."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from unittest.mock import patch

import ax.generators.torch.utils as torch_utils
import numpy as np
import torch
from ax.generators.utils import filter_constraints_and_fixed_features
from scipy.stats import qmc

from benchmarks.outer.problems import LAMBDA, METHODS, SEEDS, SPACE, Landscape, point_of, row_of
from pipeline.config.settings import SearchSettings
from pipeline.runtime.logging import quiet_libraries
from pipeline.search.outer_loop import OuterLoop
from search_spaces import BaselineArm, CreditMix, Point, SearchSpace, StudySpace
from shaping.shape import Shape

if TYPE_CHECKING:
    from ax.api.configs import RangeParameterConfig

Array = np.ndarray
Observe = Callable[[Array], tuple[float, ...]]


@dataclass
class Search:
    """What one search did.

    Attributes:
        recommended: Trials done to the row that is recommended from then on, until the next one.
        rows: Every row tried, in order.
        values: What was seen there: means over seeds.
    """

    recommended: dict[int, Array] = field(default_factory=dict)
    rows: list[Array] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, row: Array, value: float) -> None:
        """Note a trial."""
        self.rows.append(row)
        self.values.append(value)

    def add_best_seen(self, row: Array, value: float) -> None:
        """Note a trial; it is recommended if it is the best so far."""
        if not self.values or value > max(self.values):
            self.recommended[len(self.rows) + 1] = row
        self.add(row, value)


@dataclass(frozen=True)
class Listed(CreditMix):
    """The space with custom arms in place of its baselines."""

    arms: tuple[BaselineArm, ...] = ()

    def baselines(self) -> list[BaselineArm]:
        """Return the listed arms."""
        return list(self.arms)


class FormerSpace:
    """The space as it was before a parameter was a share of the whole reward: weights of the methods, and a balance.

    The last method's weight is what the others leave; sparse has what the balance leaves.
    """

    name = "former"

    def parameters(self) -> list[RangeParameterConfig]:
        """Return one weight for every method but the last, the balance and lambda."""
        from ax.api.configs import RangeParameterConfig

        bounds = {f"weight_{name}": (0.0, 1.0) for name in METHODS[:-1]}
        bounds |= {"balance": (0.0, 1.0), "gae_lambda": LAMBDA}
        return [RangeParameterConfig(name=name, parameter_type="float", bounds=pair) for name, pair in bounds.items()]

    def constraints(self) -> list[str]:
        """Return that the weights sum to at most 1."""
        return [" + ".join(f"weight_{name}" for name in METHODS[:-1]) + " <= 1"]

    def decode(self, point: Point) -> Shape:
        """Return the shape of a point."""
        values = {name: float(value) for name, value in point.items()}
        free = np.clip([values[f"weight_{name}"] for name in METHODS[:-1]], 0.0, 1.0)
        free = free / max(1.0, math.fsum(free))
        weights = dict(zip(METHODS, (*free.tolist(), max(0.0, 1 - math.fsum(free))), strict=True))
        return SPACE.base.with_changes(weights=weights, balance=values["balance"], gae_lambda=values["gae_lambda"])

    def encode(self, shape: Shape) -> dict[str, float]:
        """Return the point of a shape that has weights among the methods and a balance."""
        weights = {f"weight_{name}": shape.weights.get(name, 0.0) for name in METHODS[:-1]}
        return {**weights, "balance": shape.balance, "gae_lambda": shape.gae_lambda}

    def baselines(self) -> list[BaselineArm]:
        """Return the arms that ``SPACE`` starts with, too."""
        weights, balance = {f"weight_{name}": 1 / len(METHODS) for name in METHODS[:-1]}, 0.0
        arms = []
        for arm in SPACE.baselines():
            if arm.name in METHODS:
                weights, balance = {f"weight_{name}": float(name == arm.name) for name in METHODS[:-1]}, 1.0
            arms.append(BaselineArm(arm.name, {**weights, "balance": balance, "gae_lambda": arm.point["gae_lambda"]}))
        return arms


def shapetune(observe: Observe, stops: tuple[int, ...], seed: int) -> Search:
    """Search with this project's outer loop; the recommendation is its model's."""
    return outer_search(observe, stops, SPACE, SearchSettings(trials=max(stops), seeds=SEEDS, seed=seed))


def inferred_errors(observe: Observe, stops: tuple[int, ...], seed: int) -> Search:
    """Search as ``shapetune``, which is told means only: its model has to infer the noise."""
    return outer_search(observe, stops, SPACE, SearchSettings(trials=max(stops), seeds=(0,), seed=seed))


def former_space(observe: Observe, stops: tuple[int, ...], seed: int) -> Search:
    """Search as ``shapetune``, over weights among the methods and their balance with sparse."""
    return outer_search(observe, stops, FormerSpace(), SearchSettings(trials=max(stops), seeds=SEEDS, seed=seed))


def read_random(observe: Observe, stops: tuple[int, ...], seed: int) -> Search:
    """Try what ``dirichlet`` tries, and recommend what ``shapetune``'s model would."""
    return _read(observe, stops, seed, [])


def read_random_and_baselines(observe: Observe, stops: tuple[int, ...], seed: int) -> Search:
    """Try the space's baselines, then what ``dirichlet`` tries; recommend what ``shapetune``'s model would."""
    return _read(observe, stops, seed, SPACE.baselines())


def _read(observe: Observe, stops: tuple[int, ...], seed: int, first: list[BaselineArm]) -> Search:
    rows = random_rows(seed, max(stops) - len(first))
    drawn = [BaselineArm(f"random {place}", point_of(row)) for place, row in enumerate(rows)]
    space = Listed(SPACE.base, METHODS, LAMBDA, arms=(*first, *drawn))
    settings = SearchSettings(trials=max(stops), seeds=SEEDS, seed=seed, sobol_trials=0)
    return outer_search(observe, stops, space, settings)


def outer_search(observe: Observe, stops: tuple[int, ...], space: SearchSpace, settings: SearchSettings) -> Search:
    """Search with the outer loop; where its settings have one seed, it is told means."""
    search = Search()
    # Nothing is read back, and saving takes a third of the time.
    outer = OuterLoop("benchmark", StudySpace(space), None, settings)
    while not outer.finished():
        proposal = outer.ask()
        assert proposal is not None
        row = row_of(proposal.shape)
        measured = observe(row)
        search.add(row, float(np.mean(measured)))
        told = measured if len(settings.seeds) == len(measured) else search.values[-1:]
        outer.tell(proposal.index, dict(zip(settings.seeds, told, strict=True)), {})
        if len(search.rows) in stops:
            search.recommended[len(search.rows)] = search.rows[outer.ranking()[0].index]
    return search


def random_rows(seed: int, count: int) -> Array:
    """Return rows that are uniform over the simplex of methods and sparse, and over lambda."""
    chooser = np.random.default_rng(seed)
    return np.array(
        [
            [*chooser.dirichlet(np.ones(len(METHODS) + 1))[: len(METHODS)], chooser.uniform(*LAMBDA)]
            for _ in range(count)
        ]
    )


def dirichlet(observe: Observe, stops: tuple[int, ...], seed: int) -> Search:
    """Search at random: uniform over the simplex of methods and sparse, and over lambda."""
    return _best_seen(observe, random_rows(seed, max(stops)))


def balanced_dirichlet(observe: Observe, stops: tuple[int, ...], seed: int) -> Search:
    """Search at random: uniform over the simplex of methods, over their balance with sparse, and over lambda."""
    chooser = np.random.default_rng(seed)
    drawn = (
        np.array([*chooser.dirichlet(np.ones(len(METHODS))) * chooser.random(), chooser.uniform(*LAMBDA)])
        for _ in range(max(stops))
    )
    return _best_seen(observe, drawn)


def sobol(observe: Observe, stops: tuple[int, ...], seed: int) -> Search:
    """Search a scrambled Sobol sequence, folded onto the simplex of methods and sparse."""
    sequence = qmc.Sobol(len(METHODS) + 1, rng=seed)
    # Its first 2^n points belong together.
    drawn = sequence.random_base2(int(np.ceil(np.log2(max(stops)))))[: max(stops)]
    return _best_seen(observe, (_row(spacings(numbers[:-1]), numbers[-1]) for numbers in drawn))


def _best_seen(observe: Observe, rows: Iterable[Array]) -> Search:
    search = Search()
    for row in rows:
        search.add_best_seen(row, float(np.mean(observe(row))))
    return search


def spacings(numbers: Array) -> Array:
    """Return the parts that ``K - 1`` numbers cut [0, 1] into: uniform on the simplex where the numbers are."""
    return np.diff(np.concatenate([[0.0], np.sort(numbers), [1.0]]))


def exponential_shares(numbers: Array) -> Array:
    """Return ``K`` numbers' negative logarithms, divided by their sum: uniform on the simplex where the numbers are."""
    parts = -np.log(np.maximum(numbers, 1e-12))
    return parts / parts.sum() if parts.sum() > 0 else np.full(len(parts), 1 / len(parts))


def _row(shares: Array, number: float) -> Array:
    """Return the row of the shares of methods and sparse, and of a lambda on [0, 1]."""
    return np.array([*shares[: len(METHODS)], LAMBDA[0] + number * (LAMBDA[1] - LAMBDA[0])])


def tpe(observe: Observe, stops: tuple[int, ...], seed: int) -> Search:
    """Search with Optuna's TPE at its defaults; the simplex is made of independent numbers, as its guide says."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    search = Search()
    for _ in range(max(stops)):
        trial = study.ask()
        shares = exponential_shares(np.array([trial.suggest_float(name, 0, 1) for name in (*METHODS, "sparse")]))
        row = np.array([*shares[: len(METHODS)], trial.suggest_float("gae_lambda", *LAMBDA)])
        search.add_best_seen(row, float(np.mean(observe(row))))
        study.tell(trial, search.values[-1])
    return search


def ax_default(observe: Observe, stops: tuple[int, ...], seed: int) -> Search:
    """Search with Ax's client as it comes; the recommendation is its own best parameterization."""
    from ax.api.client import Client

    search = Search()
    # The outer loop mends Ax for the whole process; this is Ax as it comes.
    unmended = patch.object(torch_utils, "filter_constraints_and_fixed_features", filter_constraints_and_fixed_features)
    with quiet_libraries(), unmended:
        client = Client(random_seed=seed)
        client.configure_experiment(SPACE.parameters(), parameter_constraints=SPACE.constraints())
        client.configure_optimization("J")
        while len(search.rows) < max(stops):
            for index, point in client.get_next_trials(max_trials=1).items():
                row = row_of(SPACE.decode(point))
                search.add(row, float(np.mean(observe(row))))
                client.complete_trial(index, raw_data={"J": search.values[-1]})
            if len(search.rows) in stops:
                best, *_ = client.get_best_parameterization()
                search.recommended[len(search.rows)] = row_of(SPACE.decode(best))
    return search


def search_landscape(name: str, landscape: Landscape, stops: tuple[int, ...], seed: int) -> tuple[Search, float]:
    """Return one search and its processor seconds; its noise is drawn from the seed, whatever searches."""
    # Ax draws from torch's global generator.
    torch.manual_seed(seed)
    started = time.process_time()
    search = SEARCHERS[name](landscape.observer(seed), stops, seed)
    return search, time.process_time() - started


Searcher = Callable[[Observe, tuple[int, ...], int], Search]
SHAPETUNE = "Shapetune"
RANDOM = ("random over methods and sparse", "random over methods, and balance")
TPE, AX = "Optuna's TPE", "Ax's default client"
READ, READ_BASELINES = "random, read by the model", "baselines and random, read by the model"
MEANS_ONLY, FORMER = "Shapetune, errors not pooled", "Shapetune, weights and balance"
SEARCHERS: dict[str, Searcher] = {
    SHAPETUNE: shapetune,
    RANDOM[0]: dirichlet,
    RANDOM[1]: balanced_dirichlet,
    "Sobol": sobol,
    TPE: tpe,
    AX: ax_default,
    READ: read_random,
    READ_BASELINES: read_random_and_baselines,
    MEANS_ONLY: inferred_errors,
    FORMER: former_space,
}
