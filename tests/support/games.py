"""Games with closed forms, and Shapley and Owen values by plain loops: the oracles of the estimators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, permutations, product
from math import factorial

import torch
from torch import Tensor

from tests.support.models.tiny_models import members_of_all


def game_of(players: int, worth: Callable[[set[int]], float]) -> Tensor:
    """Return the game ``v(S) = worth(S)``."""
    coalitions = members_of_all(players).tolist()
    return torch.tensor([float(worth({i for i, present in enumerate(row) if present})) for row in coalitions])


def structured_game(players: int, seed: int, noise: float = 0.0, pairs: float = 0.5) -> Tensor:
    """Return main effects, interactions of two players, and noise on every coalition."""
    generator = torch.Generator().manual_seed(seed)
    member = members_of_all(players).float()
    main = torch.randn(players, generator=generator)
    together = torch.randn(players, players, generator=generator).triu(1) * pairs
    values = member @ main + ((member @ together) * member).sum(dim=1)
    return values + noise * torch.randn(2**players, generator=generator)


def airport_game(costs: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return the game in which a coalition pays for its longest runway, and its Shapley value.

    Each piece of runway is shared by those who need it (Littlechild and Owen, 1973); costs must not fall.
    """
    shares, paid, before = [], 0.0, 0.0
    for place, cost in enumerate(costs):
        paid += (cost - before) / (len(costs) - place)
        shares.append(paid)
        before = cost
    values = game_of(len(costs), lambda inside: max((costs[i] for i in inside), default=0.0))
    return values, torch.tensor(shares)


def mean_marginals(values: Tensor, orders: Iterable[Sequence[int]], always: int = 0) -> Tensor:
    """Return the mean marginal contribution over orders, one at a time; ``always`` are present from the start."""
    table = values.double().tolist()
    total, count = [0.0] * (len(table).bit_length() - 1), 0
    for order in orders:
        coalition, count = always, count + 1
        for player in order:
            joined = coalition | 1 << player
            total[player] += table[joined] - table[coalition]
            coalition = joined
    return torch.tensor(total, dtype=torch.float64) / count


def by_orders(values: Tensor) -> Tensor:
    """Return Shapley values: the mean over all ``N!`` orders."""
    return mean_marginals(values, permutations(range(len(values).bit_length() - 1)))


def by_hierarchy(values: Tensor, structure: Sequence[int]) -> Tensor:
    """Return Owen values: the mean over all orders in which the tokens of a unit stand together.

    ``structure`` is the unit of each player, -1 for one who is always there.
    """
    units = [[i for i, unit in enumerate(structure) if unit == number] for number in range(max(structure) + 1)]
    always = sum(1 << i for i, unit in enumerate(structure) if unit < 0)
    orders = (
        list(chain(*inside))
        for outer in permutations(units)
        for inside in product(*(permutations(unit) for unit in outer))
    )
    return mean_marginals(values, orders, always)


def by_subsets(values: Tensor) -> Tensor:
    """Return Shapley values by the subset formula, for games with too many orders."""
    table = values.double().tolist()
    players = len(table).bit_length() - 1
    weight = [factorial(size) * factorial(players - size - 1) / factorial(players) for size in range(players)]
    result = torch.zeros(players, dtype=torch.float64)
    for player in range(players):
        without = (coalition for coalition in range(2**players) if not coalition >> player & 1)
        result[player] = sum(weight[c.bit_count()] * (table[c | 1 << player] - table[c]) for c in without)
    return result


def root_mean_square(values: Tensor) -> float:
    return float(values.double().pow(2).mean().sqrt())
