"""Early stopping: whom Ax stops, and what a stopped trial is taken to be worth."""

from __future__ import annotations

import random
from statistics import fmean

import numpy as np
import pytest

from pipeline.search.early_stopping import EarlyStopping, Projection, projected


def stopping(**changes: float) -> EarlyStopping:
    return EarlyStopping(**{"worst_percent": 40.0, "least_steps": 3, "least_trials": 4, **changes})  # type: ignore[arg-type]


def with_ended(judge: EarlyStopping, ends: list[float], steps: int = 6) -> EarlyStopping:
    for trial, end in enumerate(ends):
        judge.observe(trial, [end * (step + 1) / steps for step in range(steps)])
        judge.completed(trial, end)
    return judge


def test_a_bad_trial_stops_once_enough_others_have_ended_and_a_good_one_never() -> None:
    judge = with_ended(stopping(), [1.0, 2.0, 3.0, 4.0])
    for step in range(1, 6):
        judge.observe(10, [0.1] * step)
        judge.observe(11, [5.0] * step)
        assert judge.should_stop(10) == (step >= 3)
        assert not judge.should_stop(11)


def test_nothing_stops_before_enough_trials_have_ended() -> None:
    judge = with_ended(stopping(), [1.0, 2.0, 3.0])
    judge.observe(10, [-5.0] * 5)
    assert not judge.should_stop(10)
    judge.observe(3, [4.0] * 6)
    judge.completed(3, 4.0)
    assert judge.should_stop(10)


def test_trials_are_compared_at_the_same_step() -> None:
    # All begin low: late values of others must not stop an early one.
    judge = with_ended(stopping(), [10.0, 11.0, 12.0, 13.0], steps=10)
    judge.observe(10, [1.3 * (step + 1) for step in range(4)])
    assert not judge.should_stop(10)


def test_the_share_that_stops_is_the_settings() -> None:
    for percent, place, stops in ((20, 0.5, True), (20, 1.5, False), (60, 1.5, True), (60, 3.5, False)):
        judge = with_ended(stopping(worst_percent=percent), [1.0, 2.0, 3.0, 4.0])
        judge.observe(10, [place * (step + 1) / 6 for step in range(5)])
        assert judge.should_stop(10) == stops, (percent, place)


def test_trials_that_failed_or_stopped_end_without_a_trace_or_as_curves() -> None:
    judge = with_ended(stopping(), [1.0, 2.0, 3.0, 4.0])
    judge.observe(10, [0.0] * 4)
    judge.stopped(10)
    judge.observe(11, [0.1] * 4)
    judge.failed(11)
    judge.failed(12)
    judge.observe(13, [0.2] * 5)
    assert judge.should_stop(13)
    assert judge.projection(13) is not None


def test_projection_is_the_line_through_the_trials_that_ended() -> None:
    chance = random.Random(0)
    curves = {trial: [chance.gauss(0, 1) for _ in range(9)] for trial in range(13)}
    levels = {trial: fmean(curve[3:8]) for trial, curve in curves.items()}
    ends = {trial: 2 * levels[trial] + 1 + chance.gauss(0, 0.1) for trial in range(12)}
    found = projected(curves[12][:8], curves, ends)
    assert found is not None
    # Ordinary least squares in matrices, with the standard error of a new observation.
    design = np.array([[1.0, levels[trial]] for trial in ends])
    target = np.array(list(ends.values()))
    weights, (squares,), *_ = np.linalg.lstsq(design, target, rcond=None)
    point = np.array([1.0, levels[12]])
    spread = squares / (len(ends) - 2) * (1 + point @ np.linalg.inv(design.T @ design) @ point)
    assert found.objective == pytest.approx(point @ weights)
    assert found.objective == pytest.approx(2 * levels[12] + 1, abs=0.4)
    assert found.deviation == pytest.approx(spread**0.5)


def test_projection_promises_no_end_that_no_trial_had() -> None:
    curves = {0: [1.0], 1: [2.0], 2: [3.0], 3: [9.0], 4: [-9.0]}
    ends = {0: 1.0, 1: 2.5, 2: 3.0}
    high, low = (projected(curves[trial], curves, ends) for trial in (3, 4))
    assert high is not None and low is not None
    assert (high.objective, low.objective) == (3.0, 1.0)
    middle = projected([2.0], curves, ends)
    assert middle is not None and high.deviation > 3 * middle.deviation


def test_a_curve_that_says_nothing_of_the_end_projects_to_the_mean_of_all() -> None:
    curves = {0: [1.0], 1: [2.0], 2: [3.0], 3: [0.0]}
    assert projected([0.0], curves, {0: 3.0, 1: 2.0, 2: 1.0}) == Projection(2.0, 1.0)


def test_no_projection_from_two_trials_or_from_none_that_came_so_far() -> None:
    curves = {0: [1.0, 2.0], 1: [2.0, 3.0], 2: [3.0]}
    assert projected([0.0], curves, {0: 1.0, 1: 2.0}) is None
    assert projected([0.0, 0.0], curves, {0: 1.0, 1: 2.0, 2: 3.0}) is None
    assert projected([], curves, {0: 1.0, 1: 2.0, 2: 3.0}) is None
