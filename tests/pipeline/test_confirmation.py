"""The verdict says what the numbers say, in both directions."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pipeline.arm import Arm
from pipeline.confirmation import (
    TUNED,
    confirmation_arms,
    first_step_reaching,
    judge,
    paired_difference,
    smoothed_mean_curve,
)
from shaping.shape import Shape


def run(seed: int, objective: float, curve: list[float]) -> dict[str, Any]:
    return {"seed": seed, "evaluation": {"objective": objective}, "curve": [{"objective": value} for value in curve]}


def arm_runs(objectives: list[float], curve: list[float]) -> list[dict[str, Any]]:
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
    assert not difference.is_gain


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


def test_no_winner_is_a_verdict_too() -> None:
    runs = {
        name: arm_runs([1.0, 1.2, 0.9, 1.1], [0.0] * 6) for name in ("winner", "sparse", TUNED[0], TUNED[1], "uniform")
    }
    runs["winner"] = arm_runs([1.1, 1.0, 1.0, 1.0], [-1.0] * 6)
    verdict = judge("prefix", runs)
    assert verdict.text[0] == "No shape beat a baseline in J on fresh seeds."
    assert "does not reach" in verdict.text[-1]


def test_one_fresh_seed_decides_nothing() -> None:
    runs = {"winner": arm_runs([9.0], [9.0] * 6), "sparse": arm_runs([0.0], [0.0] * 6)}
    assert judge("prefix", runs).text == ("prefix was run on one fresh seed only: one pair decides nothing.",)


def test_only_seeds_that_both_arms_finished_are_paired() -> None:
    runs = {"winner": arm_runs([1.0, 2.0, 3.0], [1.0] * 6), "sparse": arm_runs([0.0, 1.0], [0.0] * 6)}
    verdict = judge("prefix", runs)
    assert verdict.differences[0].seeds == 2
    assert verdict.tuned_rival == ""


def test_the_baselines_are_sparse_tuned_twice_and_uniform_at_the_winners_lambda() -> None:
    base = Shape(gae_lambda=0.9)
    winner = Arm("x", base.with_changes(weights={"prefix": 1.0}, gae_lambda=0.7))
    arms = {arm.name: arm for arm in confirmation_arms(winner, base)}
    assert arms["winner"].shape == winner.shape
    assert arms["sparse"].shape == base and arms["sparse"].critic is None
    assert arms[TUNED[0]].shape.gae_lambda == 1.0
    assert arms[TUNED[1]].critic == "reward_model" and arms[TUNED[1]].shape == base
    assert arms["uniform"].shape.active_methods() == {"uniform": 1.0}
    assert arms["uniform"].shape.gae_lambda == 0.7
