from itertools import combinations
from math import comb, sqrt

import pytest
import torch
from scipy.stats import chi2

from shaping.credit import paired_sampling
from shaping.credit.paired_sampling import fully_drawn, pair_weights, sample_pairs, shares, total_pairs
from tests.support.models.tiny_models import members_of_all

CASES = [
    (2, 1),
    (3, 2),
    (5, 3),
    (8, 20),
    (9, 31),
    (10, 63),
    (11, 400),
    (12, 127),
    (12, 2000),
    (14, 127),
    (16, 31),
    (20, 63),
]
cases = pytest.mark.parametrize(("units", "pairs"), CASES)


def drawn(units, pairs, seed=0):
    return sample_pairs(units, pairs, torch.Generator().manual_seed(seed))


def pairs_of_size(units, size):
    return comb(units, size) // (2 if 2 * size == units else 1)


def kernel_mass(units, size):
    """Return the Shapley kernel, over all coalitions of a size and of its complement."""
    one = (units - 1) / (comb(units, size) * size * (units - size))
    return one * pairs_of_size(units, size) * 2


def water_level(units, pairs):
    """Return shares by bisection: each size as much as its kernel mass, times one factor, but not more than it has."""
    there = [pairs_of_size(units, size) for size in range(1, units // 2 + 1)]
    mass = [kernel_mass(units, size) for size in range(1, units // 2 + 1)]
    low, high = 0.0, 2.0 * sum(there) / min(mass)
    for _ in range(200):
        middle = (low + high) / 2
        filled = sum(min(most, middle * each) for most, each in zip(there, mass, strict=True))
        low, high = (middle, high) if filled < pairs else (low, middle)
    return [min(most, high * each) for most, each in zip(there, mass, strict=True)]


def numbers(members):
    """Return for each coalition the smaller of its own number and its complement's: the name of its pair."""
    bits = 2 ** torch.arange(members.shape[1])
    return torch.minimum(members.long() @ bits, (~members).long() @ bits)


def sizes_of(members):
    size = members.sum(dim=1)
    return torch.minimum(size, members.shape[1] - size)


@cases
def test_shares_follow_the_kernel_until_a_size_is_full(units, pairs):
    assert shares(units, pairs)[0] == pytest.approx(water_level(units, pairs), rel=1e-6)


@cases
def test_all_pairs_are_distinct_and_none_is_the_complement_of_another(units, pairs):
    for seed in range(5):
        members = drawn(units, pairs, seed)
        assert members.shape == (pairs, units)
        assert len(set(numbers(members).tolist())) == pairs
        assert 0 < int(members.sum(dim=1).min())
        assert int(members.sum(dim=1).max()) < units


@cases
def test_each_size_gets_its_share_rounded_up_or_down_and_on_average_exactly(units, pairs):
    seeds, share = 300, torch.tensor(shares(units, pairs)[0])
    counts = torch.stack(
        [torch.bincount(sizes_of(drawn(units, pairs, seed)), minlength=units // 2 + 1)[1:] for seed in range(seeds)]
    )
    assert bool((counts >= (share + 1e-6).floor()).all())
    assert bool((counts <= (share - 1e-6).ceil()).all())
    # A share's fraction is a coin: its mean over seeds strays by the root of a quarter at most.
    assert float((counts.float().mean(dim=0) - share).abs().max()) < 4 * 0.5 / sqrt(seeds)


@pytest.mark.parametrize("units", [2, 3, 6, 7])
@pytest.mark.parametrize("surplus", [0, 1, 50])
def test_as_many_pairs_as_there_are_give_every_coalition(units, surplus):
    members = drawn(units, total_pairs(units) + surplus)
    both = torch.cat([members, ~members]).long() @ (2 ** torch.arange(units))
    assert sorted(both.tolist()) == list(range(1, 2**units - 1))


@pytest.mark.parametrize("listed", [4096, 0])
@pytest.mark.parametrize(("units", "pairs"), [(6, 8), (7, 15), (8, 30), (8, 100)])
def test_within_a_size_every_pair_is_as_likely_as_another(units, pairs, listed, monkeypatch):
    monkeypatch.setattr(paired_sampling, "LISTED", listed)
    seeds, share = 1500, shares(units, pairs)[0]
    counts = torch.zeros(2**units)
    for seed in range(seeds):
        counts[numbers(drawn(units, pairs, seed))] += 1
    for size in range(1, units // 2 + 1):
        there = pairs_of_size(units, size)
        names = torch.unique(numbers(members_of_all(units)[members_of_all(units).sum(dim=1) == size]))
        assert len(names) == there
        chance = share[size - 1] / there
        if chance == 1:
            assert bool((counts[names] == seeds).all())
            continue
        # Drawn without replacement a pair's count varies by p (1 - p), and the counts sum to a constant.
        statistic = float(((counts[names] - seeds * chance) ** 2).sum()) / (seeds * chance * (1 - chance))
        assert 0.001 < chi2.cdf(statistic * (there - 1) / there, there - 1) < 0.999


@pytest.mark.parametrize(("units", "pairs"), [(6, 8), (7, 15), (9, 31)])
def test_weighted_sums_over_samples_estimate_kernel_sums_over_all_coalitions(units, pairs):
    members, seeds = members_of_all(units)[1:-1], 1500
    function = torch.randn(2**units, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 1
    by_size = torch.tensor(
        [0.0, *(kernel_mass(units, s) / 2 / pairs_of_size(units, s) for s in range(1, units // 2 + 1))]
    )
    both = function[1:-1] + function.flip(0)[1:-1]
    expected = float((by_size[sizes_of(members)].double() * both).sum()) / 2
    found = torch.zeros(seeds, dtype=torch.float64)
    for seed in range(seeds):
        chosen = drawn(units, pairs, seed)
        number = chosen.long() @ (2 ** torch.arange(units))
        found[seed] = (pair_weights(chosen, pairs) * (function[number] + function[2**units - 1 - number])).sum()
    # The weights are the kernel's but for one factor of all sizes, N - 1.
    found = found * (units - 1) / 2
    assert abs(float(found.mean()) - expected) < 4 * float(found.std()) / sqrt(seeds)
    assert float(found.std()) < 0.5 * abs(expected)


@pytest.mark.parametrize(("units", "pairs"), [(6, 31), (7, 100)])
def test_weights_of_all_pairs_are_the_shapley_kernel(units, pairs):
    members = drawn(units, pairs)
    weights, size = pair_weights(members, pairs), members.sum(dim=1).tolist()
    kernel = torch.tensor([(units - 1) / (comb(units, s) * s * (units - s)) for s in size], dtype=torch.float64)
    torch.testing.assert_close(weights / weights.sum(), kernel / kernel.sum())


def test_only_sizes_that_are_full_count_as_fully_drawn():
    members = drawn(12, 40)
    share = shares(12, 40)[0]
    assert share[0] == 12
    assert share[1] < 66
    assert torch.equal(fully_drawn(members, 40), sizes_of(members) == 1)
    everything = drawn(6, total_pairs(6))
    assert bool(fully_drawn(everything, total_pairs(6)).all())


def test_equal_halves_are_named_by_the_first_unit_when_listed():
    halves = drawn(6, total_pairs(6))
    halves = halves[halves.sum(dim=1) == 3]
    expected = {tuple(half) for half in combinations(range(6), 3) if 0 in half}
    assert {tuple(torch.nonzero(row).squeeze(1).tolist()) for row in halves} == expected


def test_pairs_are_drawn_anew_from_other_seeds_and_again_from_the_same():
    assert torch.equal(drawn(12, 40, seed=3), drawn(12, 40, seed=3))
    assert set(numbers(drawn(12, 40, seed=3)).tolist()) != set(numbers(drawn(12, 40, seed=4)).tolist())
