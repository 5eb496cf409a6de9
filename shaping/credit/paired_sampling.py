"""Coalitions for KernelSHAP: complementary pairs, without replacement, sizes in proportion to the Shapley kernel.

Each size gets a share of the pairs; a size whose share exceeds its coalitions is enumerated and the rest goes to
the other sizes. Within a size pairs are drawn evenly. A pair's weight is its size's kernel mass over the number of
pairs that the size gets on average, so that sums over the sample estimate sums over all coalitions.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations, islice
from math import comb

import torch
from torch import Tensor

# Below this many coalitions a size is listed and shuffled, above it drawn.
LISTED = 4_096


def total_pairs(units: int) -> int:
    """Return the number of complementary pairs of coalitions, none and all left out."""
    return int(2 ** (units - 1)) - 1


@lru_cache(maxsize=256)
def shares(units: int, pairs: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return for sizes ``1 .. N // 2`` how many pairs each gets on average, and the weight of one of its pairs."""
    sizes = range(1, units // 2 + 1)
    there = [_pairs_of_size(units, size) for size in sizes]
    mass = [(1 if 2 * size == units else 2) / (size * (units - size)) for size in sizes]
    share = [0.0] * len(there)
    open_sizes, left = set(range(len(there))), float(min(pairs, total_pairs(units)))
    while open_sizes:
        whole = sum(mass[place] for place in open_sizes)
        full = {place for place in open_sizes if left * mass[place] / whole >= there[place]}
        for place in full or open_sizes:
            share[place] = float(there[place]) if full else left * mass[place] / whole
        left -= sum(share[place] for place in full)
        open_sizes = open_sizes - full if full else set()
    return tuple(share), tuple(each / part if part else 0.0 for each, part in zip(mass, share, strict=True))


def sample_pairs(units: int, pairs: int, generator: torch.Generator) -> Tensor:
    """Return one coalition of each of ``p`` distinct pairs: a ``p x N`` boolean tensor, ``N`` at least 2."""
    share = torch.tensor(shares(units, pairs)[0], dtype=torch.float64)
    # Systematic rounding: every size gets its share or the next whole number, the total is kept.
    start = torch.rand(1, generator=generator, dtype=torch.float64)
    reached = (torch.cat([torch.zeros(1, dtype=torch.float64), share.cumsum(0)]) + start).add(1e-9).floor().long()
    counts = (reached[1:] - reached[:-1]).tolist()
    drawn = [_draw(units, size, count, generator) for size, count in enumerate(counts, start=1) if count]
    return torch.cat(drawn) if drawn else torch.zeros(0, units, dtype=torch.bool)


def pair_weights(members: Tensor, pairs: int) -> Tensor:
    """Return the weight of each pair (``p``), given one coalition of each (``p x N``)."""
    units = members.shape[1]
    size = members.sum(dim=1)
    weights = torch.tensor([0.0, *shares(units, pairs)[1]], dtype=torch.float64, device=members.device)
    return weights[torch.minimum(size, units - size)]


def fully_drawn(members: Tensor, pairs: int) -> Tensor:
    """Return which pairs (``p``) are of a size of which every pair was drawn."""
    return unseen_shares(members, pairs) == 0


def unseen_shares(members: Tensor, pairs: int) -> Tensor:
    """Return for each pair (``p``) the share of the pairs of its size that is not drawn, on average."""
    units = members.shape[1]
    share, size = shares(units, pairs)[0], members.sum(dim=1)
    unseen = [max(0.0, 1 - part / _pairs_of_size(units, place)) for place, part in enumerate(share, start=1)]
    table = torch.tensor([1.0, *unseen], dtype=torch.float64, device=members.device)
    return table[torch.minimum(size, units - size)]


def _pairs_of_size(units: int, size: int) -> int:
    return comb(units, size) // (2 if 2 * size == units else 1)


@lru_cache(maxsize=64)
def _listed(units: int, size: int) -> Tensor:
    """Return one coalition of each pair of a size by its units; of equal halves the one with the first unit."""
    return torch.tensor(list(islice(combinations(range(units), size), _pairs_of_size(units, size))))


def _draw(units: int, size: int, count: int, generator: torch.Generator) -> Tensor:
    there = _pairs_of_size(units, size)
    if there <= max(LISTED, count):
        listed = _listed(units, size)
        chosen = listed[torch.randperm(there, generator=generator)[:count]]
        return torch.zeros(count, units, dtype=torch.bool).scatter_(1, chosen, True)
    found = torch.zeros(0, units, dtype=torch.bool)
    while len(found) < count:
        ranks = torch.rand(2 * count, units, generator=generator).argsort(dim=1).argsort(dim=1)
        more = ranks < size
        if 2 * size == units:
            # Of a pair of equal halves, the one with the first unit stands for both.
            more = torch.where(more[:, :1], more, ~more)
        found = torch.unique(torch.cat([found, more]), dim=0)
    return found[torch.randperm(len(found), generator=generator)[:count]]
