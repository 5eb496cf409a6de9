"""The verdict says what the numbers say, in both directions."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from statistics import NormalDist, fmean

import numpy as np
import pytest
from scipy.stats import bootstrap

from pipeline.study.verdict import (
    TUNED,
    Difference,
    bootstrap_interval,
    confirmation_arms,
    judge,
    paired_difference,
    untrained_runs,
)
from pipeline.trials.arm import Arm
from pipeline.trials.results import RunResult
from pipeline.trials.statistics import first_step_reaching, smoothed_mean_curve
from shaping.certificate import Certificate
from shaping.shape import Shape

Runs = dict[str, list[RunResult]]


def run(seed: int, objective: float, curve: list[float]) -> RunResult:
    points = tuple({"objective": value} for value in curve)
    return RunResult(seed, points, {"objective": objective}, Certificate(0.0, 4, 1.0, {}))


def with_untrained(runs: Runs, objectives: list[float]) -> Runs:
    measured = zip(runs["sparse"], objectives, strict=True)
    return {**runs, "sparse": [replace(run, untrained={"objective": value}) for run, value in measured]}


def arm_runs(objectives: list[float], curve: list[float]) -> list[RunResult]:
    return [run(100 + place, value, curve) for place, value in enumerate(objectives)]


def test_paired_interval_is_students_t_of_the_differences() -> None:
    difference = paired_difference("sparse", [1.0, 2.0, 3.0, 4.0], [0.5, 1.0, 2.5, 2.0])
    # Differences .5, 1, .5, 2: mean 1, standard deviation sqrt(.5), t(.975, 3) = 3.1824.
    half = 3.182446 * math.sqrt(0.5) / 2
    assert difference.mean == pytest.approx(1.0)
    assert (difference.low, difference.high) == (pytest.approx(1 - half), pytest.approx(1 + half))
    assert not difference.is_gain and not difference.is_loss


def test_one_pair_claims_nothing() -> None:
    difference = paired_difference("sparse", [5.0], [0.0])
    assert (difference.low, difference.high) == (-math.inf, math.inf)
    assert (difference.bootstrap_low, difference.bootstrap_high) == (-math.inf, math.inf)
    assert not difference.is_gain


def resampled_means(values: list[float]) -> list[float]:
    """Every resample's mean, in order: what random resamples estimate."""
    return sorted(fmean(drawn) for drawn in itertools.product(values, repeat=len(values)))


def test_the_bootstrap_of_an_even_sample_is_the_percentiles_of_all_resamples() -> None:
    # Without skewness the corrections of BCa are 0. Means of 3125 resamples lie .2 apart.
    means = resampled_means([1.0, 2.0, 3.0, 4.0, 5.0])
    low, high = bootstrap_interval([1.0, 2.0, 3.0, 4.0, 5.0]) or (0.0, 0.0)
    assert low == pytest.approx(means[math.floor(0.025 * len(means))], abs=0.21)
    assert high == pytest.approx(means[math.ceil(0.975 * len(means)) - 1], abs=0.21)
    # Of three differences, one resample in 27 is the lowest three times: more than 2.5 %.
    assert bootstrap_interval([1.0, 2.0, 3.0]) == (1.0, 3.0)


def test_the_bootstrap_of_a_skewed_sample_is_corrected_as_efron_has_it() -> None:
    values = [0.11, 0.32, 0.35, 0.43, 0.93, 2.07]
    means, normal, middle = resampled_means(values), NormalDist(), fmean(values)
    below = sum(mean < middle - 1e-12 for mean in means) + sum(abs(mean - middle) <= 1e-12 for mean in means) / 2
    bias = normal.inv_cdf(below / len(means))
    left_out = [fmean(values[:i] + values[i + 1 :]) for i in range(len(values))]
    deviations = [fmean(left_out) - each for each in left_out]
    acceleration = sum(d**3 for d in deviations) / (6 * sum(d**2 for d in deviations) ** 1.5)
    expected = []
    for tail in (0.025, 0.975):
        shifted = bias + normal.inv_cdf(tail)
        share = normal.cdf(bias + shifted / (1 - acceleration * shifted))
        expected.append(means[round(share * len(means))])
    found = bootstrap_interval(values)
    assert found == pytest.approx(expected, abs=0.03)
    # Uncorrected percentiles are somewhere else, so the correction was seen.
    assert abs(means[round(0.975 * len(means))] - expected[1]) > 0.1


def test_the_bootstrap_is_scipys_of_the_paired_differences_and_repeats_itself() -> None:
    ours, theirs = [1.0, 2.0, 3.0, 4.5, 2.5], [0.5, 1.0, 2.5, 2.0, 2.75]
    differences = np.subtract(ours, theirs)
    oracle = bootstrap((differences,), np.mean, n_resamples=10_000, confidence_level=0.95, method="BCa", rng=0)
    found = paired_difference("sparse", ours, theirs)
    assert (found.bootstrap_low, found.bootstrap_high) == tuple(oracle.confidence_interval)
    assert found == paired_difference("sparse", ours, theirs)


@pytest.mark.parametrize(
    "differences", [[0.5] * 4, [0.25, 1.0], [0.0, 0.0, 1e-300]], ids=["all equal", "two seeds", "too small to be cubed"]
)
def test_where_nothing_can_be_resampled_the_bootstrap_is_students_t(differences: list[float]) -> None:
    found = paired_difference("sparse", differences, [0.0] * len(differences))
    assert (found.bootstrap_low, found.bootstrap_high) == (found.low, found.high)
    assert math.isfinite(found.low)


@pytest.mark.parametrize(
    ("differences", "by_students", "by_bootstrap"),
    [([0.1, 0.2, 1.9], False, True), ([1.0] * 10 + [-1.7], True, False), ([0.4, 0.5, 0.6], True, True)],
    ids=["bootstrap alone", "Student's t alone", "both"],
)
def test_a_gain_or_a_loss_needs_both_intervals(differences: list[float], by_students: bool, by_bootstrap: bool) -> None:
    zeros = [0.0] * len(differences)
    gain, loss = paired_difference("sparse", differences, zeros), paired_difference("sparse", zeros, differences)
    assert (gain.low > 0, gain.bootstrap_low > 0) == (by_students, by_bootstrap)
    assert (loss.high < 0, loss.bootstrap_high < 0) == (by_students, by_bootstrap)
    assert gain.is_gain == loss.is_loss == (by_students and by_bootstrap)
    assert not gain.is_loss and not loss.is_gain


def test_the_printed_line_shows_both_intervals() -> None:
    runs = {"winner": arm_runs([1.0, 2.0, 2.5], [1.0] * 6), "sparse": arm_runs([0.5, 1.0, 1.0], [0.0] * 6)}
    verdict = judge("prefix", runs)
    (difference,) = verdict.differences
    # Differences .5, 1, 1.5: t(.975, 2) = 4.3027, standard deviation .5.
    half = 4.302653 * 0.5 / math.sqrt(3)
    assert difference == Difference(
        "sparse", 1.0, pytest.approx(1 - half), pytest.approx(1 + half), 3, pytest.approx(0.5), pytest.approx(1.5)
    )
    expected = f"+1.000 [{1 - half:+.3f}, {1 + half:+.3f}] (bootstrap [+0.500, +1.500]) over 3 paired seeds."
    assert f"J against sparse: {expected}" in verdict.text


def test_smoothing_averages_seeds_then_steps() -> None:
    assert smoothed_mean_curve([[0, 2, 4, 6, 8, 10], [2, 4, 6, 8, 10, 12]]) == [1, 2, 3, 4, 5, 7]


def test_a_level_counts_only_once_the_window_is_full() -> None:
    assert first_step_reaching([9, 9, 0, 0, 0, 1, 5], 5) == 7
    assert first_step_reaching([0.0] * 8, 1) is None
    assert first_step_reaching([3.0], 2) == 1


def test_a_clear_winner_is_said_to_win_and_how_fast() -> None:
    rising, slow = [float(step) for step in range(20)], [step / 2 for step in range(20)]
    runs = {
        "winner": arm_runs([2.0, 2.1, 1.9, 2.05], rising),
        "sparse": arm_runs([1.0, 1.05, 0.95, 1.0], slow),
        TUNED[0]: arm_runs([1.2, 1.25, 1.1, 1.2], slow),
        TUNED[1]: arm_runs([1.1, 1.1, 1.1, 1.1], slow),
        "uniform": arm_runs([0.9, 1.0, 0.9, 1.0], slow),
    }
    verdict = judge("7_0", runs)
    assert verdict.tuned_rival == TUNED[0]
    assert [difference.rival for difference in verdict.differences] == ["sparse", TUNED[0], "uniform"]
    assert all(difference.is_gain for difference in verdict.differences)
    assert verdict.text[0] == "7_0 beats every baseline in J on fresh seeds."
    # Tuned sparse ends at 8.5 (mean of 7.5 to 9.5, halves); the winner's window mean reaches it at step 12.
    assert verdict.steps_to_level["winner"] == 12
    assert verdict.steps_to_level[TUNED[0]] == 20


def test_rivals_that_are_not_beaten_are_named_beside_those_that_are() -> None:
    runs = {
        "winner": arm_runs([2.0, 2.1, 1.9, 2.05], [1.0] * 6),
        "sparse": arm_runs([1.0, 1.05, 0.95, 1.0], [1.0] * 6),
        TUNED[2]: arm_runs([2.1, 1.9, 2.05, 2.0], [1.0] * 6),
        "uniform": arm_runs([0.9, 1.0, 0.9, 1.0], [1.0] * 6),
    }
    said = "7_0 beats 'sparse' and 'uniform' in J on fresh seeds, but not 'sparse, reward-model critic, same lambda'."
    assert judge("7_0", runs).text[0] == said


def test_a_level_that_is_reached_at_the_first_mean_of_a_short_run_tells_speed() -> None:
    rising = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    runs = {
        "winner": arm_runs([1.5, 1.6, 1.4], [2 * value + 0.4 for value in rising]),
        "sparse": arm_runs([0.9, 0.8, 1.0], rising),
        "sparse, network critic": arm_runs([0.8, 0.7, 0.9], rising),
    }
    verdict = judge("2_0", runs, found_rivals=True)
    assert verdict.steps_to_level["winner"] == 5
    assert "It reaches the final level of 'sparse' after 5 steps; that run took 10 of 10." in verdict.text


def test_no_winner_is_a_verdict_too() -> None:
    runs = {
        name: arm_runs([1.0, 1.2, 0.9, 1.1], [0.0] * 6) for name in ("winner", "sparse", TUNED[0], TUNED[1], "uniform")
    }
    runs["winner"] = arm_runs([1.1, 1.0, 1.0, 1.0], [-1.0] * 6)
    verdict = judge("prefix", runs)
    assert verdict.text[0] == "No shape beat a baseline in J on fresh seeds."
    assert "does not reach" in verdict.text[-1]


def test_a_level_that_runs_begin_at_says_nothing_of_speed() -> None:
    flat, falling = [0.1] * 12, [0.2] * 6 + [0.0] * 6
    runs = {
        "winner": arm_runs([0.0, 0.1, 0.2], falling),
        **{name: arm_runs([0.2, 0.3, 0.1], flat) for name in TUNED},
        "sparse": arm_runs([0.1, 0.2, 0.0], flat),
        "uniform": arm_runs([0.1, 0.0, 0.2], flat),
    }
    verdict = judge("2_0", runs)
    assert verdict.steps_to_level["winner"] == 5
    assert f"The final level of '{verdict.tuned_rival}' is no higher than where runs begin" in verdict.text[-1]
    assert not any("It reaches" in line for line in verdict.text)


def test_one_fresh_seed_decides_nothing() -> None:
    runs = {"winner": arm_runs([9.0], [9.0] * 6), "sparse": arm_runs([0.0], [0.0] * 6)}
    assert judge("prefix", runs).text == ("prefix was run on one fresh seed only: one pair decides nothing.",)


def test_only_seeds_that_both_arms_finished_are_paired() -> None:
    runs = {"winner": arm_runs([1.0, 2.0, 3.0], [1.0] * 6), "sparse": arm_runs([0.0, 1.0], [0.0] * 6)}
    verdict = judge("prefix", runs)
    assert verdict.differences[0].seeds == 2
    assert verdict.tuned_rival == ""


def test_the_baselines_are_sparse_tuned_three_times_and_uniform_at_the_winners_lambda() -> None:
    base = Shape(gae_lambda=0.9)
    winner = Arm("x", base.with_changes(weights={"prefix": 1.0}, gae_lambda=0.7))
    arms = {arm.name: arm for arm in confirmation_arms(winner, base)}
    assert arms["winner"].shape == winner.shape
    assert arms["sparse"].shape == base and arms["sparse"].critic is None
    assert arms[TUNED[0]].shape.gae_lambda == 1.0
    assert arms[TUNED[1]].critic == "reward_model" and arms[TUNED[1]].shape == base
    assert arms[TUNED[2]].critic == "reward_model" and arms[TUNED[2]].shape == base.with_changes(gae_lambda=0.7)
    assert arms["uniform"].shape.active_methods() == {"uniform": 1.0}
    assert arms["uniform"].shape.gae_lambda == 0.7


LEARNED, IDLE = [1.0, 1.1, 0.9, 1.05], [0.2, -0.1, 0.1, 0.0]


@pytest.mark.parametrize(
    ("sparse", "tuned", "uniform", "said"),
    [
        (LEARNED, LEARNED, LEARNED, "Before training J is 0.050; every baseline ends above it."),
        (IDLE, LEARNED, IDLE, "0.050: 'sparse' and 'uniform' cannot be told to end above it, and to beat that says"),
        (LEARNED, IDLE, LEARNED, "0.050: 'sparse, lambda 1' cannot be told to end above it"),
    ],
)
def test_a_rival_that_ends_no_higher_than_it_began_is_named(
    sparse: list[float], tuned: list[float], uniform: list[float], said: str
) -> None:
    arms = {"winner": [2.0, 2.1, 1.9, 2.0], "sparse": sparse, TUNED[0]: tuned, "uniform": uniform}
    runs = with_untrained({name: arm_runs(values, [1.0] * 6) for name, values in arms.items()}, [0.1, 0.0, 0.0, 0.1])
    assert said in judge("7_0", runs).text[-1]


def test_a_study_that_learned_nothing_is_told_so_with_a_remedy() -> None:
    arms = {"winner": [0.3, -0.1, 0.2, 0.0], "sparse": [-1.0, -1.1, -0.9, -1.0], "uniform": IDLE}
    runs = with_untrained({name: arm_runs(values, [0.0] * 6) for name, values in arms.items()}, [0.1, 0.0, 0.0, 0.1])
    said = judge("7_0", runs).text[-1]
    assert "no arm can be told to end above it: nothing was learned" in said and "ppo.learning_rate" in said


def test_a_policy_before_training_that_one_seed_or_none_measured_says_nothing() -> None:
    arms = {"winner": [2.0, 2.1], "sparse": [1.0, 1.1], "uniform": [1.0, 1.2]}
    runs = {name: arm_runs(values, [1.0] * 6) for name, values in arms.items()}
    # Studies of earlier versions did not measure it.
    assert not any("training" in line for line in judge("7_0", runs).text)
    # One pair decides nothing here either.
    runs["sparse"][0] = replace(runs["sparse"][0], untrained={"objective": 0.0})
    assert not any("training" in line for line in judge("7_0", runs).text)
    assert [run.seed for run in untrained_runs(runs)] == [100]


def test_arms_that_finished_different_seeds_are_not_compared() -> None:
    runs = {"winner": arm_runs([1.0, 2.0], [1.0] * 6), "sparse": [run(200, 0.0, [0.0] * 6), run(201, 0.0, [0.0] * 6)]}
    runs = with_untrained({**runs, "uniform": arm_runs([0.0, 1.0], [0.0] * 6)}, [0.0, 0.0])
    verdict = judge("prefix", runs)
    assert [difference.rival for difference in verdict.differences] == ["uniform"]
    alone = judge("prefix", {name: runs[name] for name in ("winner", "sparse")})
    assert "there is nothing to compare" in alone.text[0]
    assert "nothing was learned" not in " ".join(verdict.text)
