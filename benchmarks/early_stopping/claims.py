"""What searches with and without early stopping say: steps saved, trials wrongly stopped, regret, projections."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from benchmarks.common.record import Claim
from benchmarks.early_stopping.searches import TRIAL_STEPS, Found, Tried
from benchmarks.outer.regret import bootstrapped

# Repeat to search.
Searches = Mapping[int, Found]
Array = np.ndarray


def steps_saved(search: Found, trials: int) -> float:
    """Return the share of the steps of so many whole trials that was not trained."""
    return 1 - sum(trial.steps for trial in search.tried[:trials]) / (trials * TRIAL_STEPS)


def stopped(search: Found, trials: int) -> list[Tried]:
    """Return the stopped ones among the first trials."""
    return [trial for trial in search.tried[:trials] if trial.ended == "stopped"]


def wrongly_stopped(search: Found, trials: int) -> list[bool]:
    """Return for each stopped trial whether it is truly better than what was recommended after so many trials."""
    winner = search.tried[search.by_trials[trials].recommended]
    return [trial.true > winner.true for trial in stopped(search, trials)]


def best_was_stopped(search: Found, trials: int) -> bool:
    """Return whether the truly best of the first trials was stopped."""
    return max(search.tried[:trials], key=lambda trial: trial.true).ended == "stopped"


def reaching(searches: Searches, trials: int) -> dict[int, Found]:
    """Return the searches that went on for so many trials."""
    return {repeat: search for repeat, search in searches.items() if trials in search.by_trials}


def mean_claim(name: str, values: Sequence[float]) -> Claim:
    """Return the claim of a mean over repeats."""
    measured = np.array(values, dtype=float)
    return bootstrapped(name, lambda taken: float(measured[taken].mean()), len(measured))


def pooled_claim(
    name: str, groups: Sequence[Sequence[float]], statistic: Callable[[Array], float] = lambda values: values.mean()
) -> Claim | None:
    """Return the claim of a statistic over all groups' values, one group a repeat; whole repeats are resampled.

    ``None`` where no repeat has a value; those that have none otherwise change nothing.
    """
    arrays = [np.array(group, dtype=float) for group in groups if len(group)]
    if not arrays:
        return None
    return bootstrapped(
        name, lambda taken: float(statistic(np.concatenate([arrays[place] for place in taken]))), len(arrays)
    )


def costs(with_it: Searches, without: Searches, trials: int, equal_steps: bool) -> list[float]:
    """Return each repeat's regret with early stopping less that without, which is the other's after so many trials.

    Args:
        with_it: Searches that stop trials.
        without: Searches that do not.
        trials: After how many.
        equal_steps: Whether the first ones go on until they trained as many steps as the others.
    """
    found = []
    for repeat, search in reaching(with_it, trials).items():
        if trials in without[repeat].by_trials:
            mark = search.by_steps[trials] if equal_steps else search.by_trials[trials]
            found.append(mark.regret - without[repeat].by_trials[trials].regret)
    return found


def projection_errors(searches: Searches) -> list[list[tuple[float, float, float]]]:
    """Return of every repeat's stopped trials: projected less true end, projected less measured end, deviation."""
    return [
        [
            (trial.projected - trial.true, trial.projected - trial.measured, trial.deviation)
            for trial in search.tried
            if trial.ended == "stopped"
        ]
        for search in searches.values()
    ]


def projection_claims(prefix: str, searches: Searches, span: float) -> dict[str, Claim]:
    """Return what projections are worth, all stopped trials together; differences are shares of the span.

    ``bias`` and ``spread`` are the mean and the standard deviation of projected less true ends, ``stated`` the median
    of the deviations that were stated, ``coverage`` how many true ends lie within 2 of them, and ``measured_coverage``
    how many of the ends that the trials' own seeds would have measured.
    """
    errors = projection_errors(searches)

    def of(value: Callable[[float, float, float], float]) -> list[list[float]]:
        return [[value(*each) for each in group] for group in errors]

    claims = {
        "bias": pooled_claim(f"{prefix}bias", of(lambda true, measured, stated: true / span)),
        "spread": pooled_claim(f"{prefix}spread", of(lambda true, measured, stated: true / span), lambda v: v.std()),
        "stated": pooled_claim(f"{prefix}stated", of(lambda true, measured, stated: stated / span), np.median),
        "coverage": pooled_claim(f"{prefix}coverage", of(lambda true, measured, stated: abs(true) <= 2 * stated)),
        "measured_coverage": pooled_claim(
            f"{prefix}measured_coverage", of(lambda true, measured, stated: abs(measured) <= 2 * stated)
        ),
    }
    return {name: claim for name, claim in claims.items() if claim is not None}


def search_claims(prefix: str, with_it: Searches, without: Searches, trials: int) -> dict[str, Claim]:
    """Return what early stopping saves and costs after so many trials; regrets are shares of the span."""
    here = [*reaching(with_it, trials).values()]
    there = [without[repeat] for repeat in reaching(with_it, trials) if trials in without[repeat].by_trials]
    claims = {
        "steps_saved": mean_claim(f"{prefix}steps_saved_{trials}", [steps_saved(each, trials) for each in here]),
        "stopped": mean_claim(f"{prefix}stopped_{trials}", [len(stopped(each, trials)) / trials for each in here]),
        "wrongly_stopped": pooled_claim(
            f"{prefix}wrongly_stopped_{trials}", [wrongly_stopped(each, trials) for each in here]
        ),
        "best_stopped": mean_claim(f"{prefix}best_stopped_{trials}", [best_was_stopped(each, trials) for each in here]),
        "regret": mean_claim(f"{prefix}regret_{trials}", [each.by_trials[trials].regret for each in here]),
        "regret_without": mean_claim(
            f"{prefix}regret_without_{trials}", [each.by_trials[trials].regret for each in there]
        ),
        "regret_cost": mean_claim(f"{prefix}regret_cost_{trials}", costs(with_it, without, trials, False)),
        "trials_at_equal_steps": mean_claim(
            f"{prefix}trials_at_equal_steps_{trials}", [each.by_steps[trials].trials for each in here]
        ),
        "regret_at_equal_steps": mean_claim(
            f"{prefix}regret_at_equal_steps_{trials}", costs(with_it, without, trials, True)
        ),
    }
    return {name: claim for name, claim in claims.items() if claim is not None}
