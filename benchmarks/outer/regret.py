"""What regrets say: medians, ratios of them and trials saved, each with an interval by bootstrap over repeats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.common.record import Claim
from benchmarks.outer.methods import RANDOM, READ, READ_BASELINES, SHAPETUNE, TPE

STOPS = (25, 50)
# Random search goes on, to see when it is as good as Shapetune after the first stop.
RANDOM_TRIALS = 400
# Differences below this share of the span are nobody's concern, and a ratio must not be made of them.
FLOOR = 1e-4
RESAMPLED = 2_000
# Those of whose searches the best is compared with, and after how many trials.
RIVALS = {"random": (RANDOM, STOPS), "tpe": ((TPE,), STOPS[1:]), "read_random": ((READ, READ_BASELINES), STOPS)}
Array = np.ndarray
# Of one search: trials done to the regret of what is recommended from then on.
Regrets = dict[int, float]
Searches = Mapping[str, Sequence[Regrets]]


def at(regrets: Regrets, trials: int) -> float:
    """Return the regret after so many trials: of the last recommendation until then."""
    return regrets[max(done for done in regrets if done <= trials)]


def after(searches: Sequence[Regrets], trials: int) -> Array:
    """Return every repeat's regret after so many trials."""
    return np.array([at(regrets, trials) for regrets in searches])


def curves(searches: Sequence[Regrets]) -> Array:
    """Return every repeat's regret after 1, 2, ... trials: ``repeats x RANDOM_TRIALS``."""
    return np.column_stack([after(searches, trials) for trials in range(1, RANDOM_TRIALS + 1)])


def ratio(pairs: Sequence[tuple[Array, Array]]) -> float:
    """Return the geometric mean of ratios of medians, one pair of samples for each landscape."""
    logs = [np.log(max(np.median(ours), FLOOR) / max(np.median(theirs), FLOOR)) for ours, theirs in pairs]
    return float(np.exp(np.mean(logs)))


def trials_saved(pairs: Sequence[tuple[Array, Array]]) -> float:
    """Return how many times as many trials random search needs, the geometric mean over landscapes.

    Args:
        pairs: Each landscape's regrets at the first stop, and the curves of random searches, ``searches x repeats x
            trials``. The search counts whose median is first as low as ours; one that never is counts as the
            curve's length.
    """
    logs = []
    for ours, theirs in pairs:
        reached = np.median(theirs, axis=1) <= max(np.median(ours), FLOOR)
        needed = min(int(each.argmax()) + 1 if each.any() else len(each) for each in reached)
        logs.append(np.log(needed / STOPS[0]))
    return float(np.exp(np.mean(logs)))


def bootstrapped(name: str, statistic: Callable[..., float], *counts: int, level: float = 0.95) -> Claim:
    """Return the claim of a statistic, with its bootstrap interval.

    Args:
        name: The claim's.
        statistic: Of which measurements are taken, one array of places for each sample.
        counts: Measurements in each sample; the first is the claim's.
        level: Of the interval.
    """
    chooser = np.random.default_rng(0)
    drawn = [statistic(*(chooser.integers(0, count, count) for count in counts)) for _ in range(RESAMPLED)]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Claim(name, statistic(*(np.arange(count) for count in counts)), float(low), float(high), counts[0])


def median_claim(name: str, values: Sequence[float], level: float = 0.95) -> Claim:
    """Return the claim of a median."""
    measured = np.array(values)
    return bootstrapped(name, lambda taken: float(np.median(measured[taken])), len(measured), level=level)


def regret_claims(found: Mapping[str, Searches]) -> list[Claim]:
    """Return Shapetune's regret over its rivals', over all landscapes and at each; then the trials that it saves.

    Repeats of one searcher share their luck at all landscapes, and are resampled together.
    """
    claims = []
    for rival, (names, stops) in RIVALS.items():
        for stop in stops:
            pairs = {
                name: (after(searches[SHAPETUNE], stop), after(_best(searches, names, stop), stop))
                for name, searches in found.items()
            }
            claims += _over_landscapes(f"outer.regret_over_{rival}_{stop}", pairs, _ratio_of_taken)
    reach = {
        name: (after(searches[SHAPETUNE], STOPS[0]), np.stack([curves(searches[each]) for each in RANDOM]))
        for name, searches in found.items()
    }
    return claims + _over_landscapes("outer.trials_saved_vs_random", reach, _saved_by_taken)


def _best(searches: Searches, rivals: Sequence[str], stop: int) -> Sequence[Regrets]:
    """Return the searches of the rival whose median regret is the lowest then."""
    return min((searches[rival] for rival in rivals), key=lambda each: float(np.median(after(each, stop))))


def _ratio_of_taken(pairs: Sequence[tuple[Array, Array]], ours: Array, theirs: Array) -> float:
    return ratio([(mine[ours], other[theirs]) for mine, other in pairs])


def _saved_by_taken(pairs: Sequence[tuple[Array, Array]], ours: Array, theirs: Array) -> float:
    return trials_saved([(mine[ours], other[:, theirs]) for mine, other in pairs])


def _over_landscapes(
    name: str, pairs: Mapping[str, tuple[Array, Array]], statistic: Callable[..., float]
) -> list[Claim]:
    chosen: dict[str, list[Any]] = {name: list(pairs.values())}
    chosen |= {f"{name}_{landscape}": [pair] for landscape, pair in pairs.items()}
    claims = []
    for label, those in chosen.items():
        ours, theirs = those[0]
        # A rival's repeats are the last axis but that of trials.
        counts = (len(ours), theirs.shape[-1] if theirs.ndim == 1 else theirs.shape[1])
        claims.append(bootstrapped(label, lambda *taken, those=those: statistic(those, *taken), *counts))
    return claims
