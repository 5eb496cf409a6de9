"""The landscape of curves, the searches over it and the arithmetic of the early-stopping benchmark."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from benchmarks.early_stopping import comparison as early_stopping
from benchmarks.early_stopping.claims import (
    best_was_stopped,
    costs,
    pooled_claim,
    projection_claims,
    search_claims,
    steps_saved,
    wrongly_stopped,
)
from benchmarks.early_stopping.comparison import ALONE, DEFAULT, PLAIN, SETTINGS, Done, Job, advice, fingerprint
from benchmarks.early_stopping.problems import STEPS, curve_landscape, measured_vectors, relative_level
from benchmarks.early_stopping.quick import QuickStopping
from benchmarks.early_stopping.searches import Found, Mark, Setting, StoppingSearch, Tried, study_config
from benchmarks.outer.problems import SPACE, landscape, many_rows, measured_runs
from pipeline.config.settings import EarlyStoppingSettings
from pipeline.search.early_stopping import EarlyStopping
from pipeline.study.search_stage import SearchStage
from pipeline.trials.statistics import smoothed
from pipeline.trials.types import Ending, Progress
from pipeline.trials.types import Job as TrialJob

# Gaussian processes are fitted again and again.
pytestmark = pytest.mark.slow

STOPPING = EarlyStoppingSettings(worst_percent=60, least_share=0.25, least_trials=3)


def drawn_runs(row: np.ndarray, count: int) -> np.ndarray:
    world = curve_landscape()
    return np.array([world.run(row, 0, trial, 0) for trial in range(count)])


def test_mean_curves_are_near_the_data_and_their_ends_are_those_of_the_replay() -> None:
    world, runs, (shared, own) = curve_landscape(), measured_runs(), measured_vectors()
    assert shared[:, -1] == pytest.approx(runs.shared) and own[:, -1] == pytest.approx(runs.own)
    means = world.means(runs.rows)
    assert means[:, -1] == pytest.approx(landscape("replay").mean(runs.rows))
    # What a seed does to all rows alike is no part of a mean over both runs.
    left = (shared + own) / 2 - means - ((shared + own) / 2 - means).mean(axis=0)
    # One row's mean of two runs has half a run's variance; a mean that were not near would leave more.
    half_of_one = (own - shared).var(axis=0) / 4
    assert (left[:, 4:].var(axis=0) < 1.35 * half_of_one[4:]).all()
    # Late steps tell rows apart: left alone, their variance over rows would be several times as large.
    assert ((shared + own)[:, 10:].var(axis=0) / 4 > 2.5 * left[:, 10:].var(axis=0)).all()


def test_luck_goes_together_as_the_differences_between_two_real_runs_of_a_row_do() -> None:
    world, runs, (shared, own) = curve_landscape(), measured_runs(), measured_vectors()
    row = runs.rows[np.argmin(abs(landscape("replay").mean(runs.rows) - landscape("replay").mean(runs.rows).mean()))]
    drawn = drawn_runs(row, 800)
    differences = own - shared
    # A difference has the variance of two runs, and no part that rows have in common.
    for first in (7, 11, 15):
        places = slice(first, first + 5)
        real = np.array([differences[:, places].mean(axis=1), differences[:, -1]])
        made = np.array([drawn[:, places].mean(axis=1), drawn[:, -1]])
        assert np.corrcoef(made)[0, 1] == pytest.approx(np.corrcoef(real)[0, 1], abs=0.15)
        assert made[0].var() == pytest.approx(real[0].var() / 2, rel=0.35)
    assert drawn[:, -1].std() == pytest.approx(float(landscape("replay").deviation(row[None])[0]) * 2**0.5, rel=0.06)
    assert drawn.mean(axis=0) == pytest.approx(world.means(row[None])[0], abs=0.035)
    # Each drawn vector is one real run's as a whole.
    lucks = (drawn[:50] - world.means(row[None])) / world.deviations(row[None])
    assert (abs(lucks[:, None] - world.lucks[None]).max(axis=2).min(axis=1) < 1e-9).all()


@pytest.mark.parametrize("step", [9, 13, 19])
def test_made_runs_tell_as_much_of_their_ends_as_real_ones(step: int) -> None:
    world, runs, (shared, own) = curve_landscape(), measured_runs(), measured_vectors()
    made = np.array([world.run(row, 0, trial, 0) for trial, row in enumerate(runs.rows)])

    def told(vectors: np.ndarray) -> float:
        places = [smoothed(list(vector[:STEPS]))[step] for vector in vectors]
        return float(np.corrcoef(places, vectors[:, -1])[0, 1])

    assert told(made) == pytest.approx((told(shared) + told(own)) / 2, abs=0.06)


def test_luck_belongs_to_repeat_trial_and_seed_wherever_a_trial_is() -> None:
    world, rows = curve_landscape(), many_rows()[[5, 900]]

    def luck(place: int, *which: int) -> np.ndarray:
        row = rows[place]
        return (world.run(row, *which) - world.means(row[None])[0]) / world.deviations(row[None])[0]

    assert luck(0, 3, 7, 1) == pytest.approx(luck(1, 3, 7, 1))
    others = [luck(0, *which) for which in ((3, 7, 0), (3, 6, 1), (2, 7, 1))]
    assert all(abs(luck(0, 3, 7, 1) - other).max() > 0.1 for other in others)


def test_a_steps_noise_level_is_read_from_all_steps_together() -> None:
    chooser = np.random.default_rng(0)
    means = chooser.uniform(0, 1, 3000)
    differences = chooser.normal(size=(3000, 4)) * np.exp(-0.75 * means)[:, None] * [1.0, 5.0, 0.1, 2.0] + [1, 0, 3, 0]
    level = relative_level(means, differences)
    assert level(np.array([0.0, 0.5, 1.0])) == pytest.approx(np.exp([0.75, 0.0, -0.75]), rel=0.06)


def test_quick_decisions_and_projections_are_those_of_ax() -> None:
    chooser = np.random.default_rng(3)
    theirs, ours = EarlyStopping(40.0, 2, 4), QuickStopping(40.0, 2, 4)
    decided = []
    for trial in range(25):
        curve = chooser.normal(size=4).tolist()
        for length in (1, 2, 4):
            for each in (theirs, ours):
                each.observe(trial, curve[:length])
            decided.append((theirs.should_stop(trial), ours.should_stop(trial)))
            if decided[-1][0] and trial % 3:
                assert theirs.projection(trial) == ours.projection(trial)
                theirs.stopped(trial), ours.stopped(trial)
                break
        else:
            if trial == 5:
                theirs.failed(trial), ours.failed(trial)
            else:
                theirs.completed(trial, curve[-1]), ours.completed(trial, curve[-1])
    assert all(ax == quick for ax, quick in decided)
    assert sum(ax for ax, _ in decided) > 5


def test_what_moves_all_curves_alike_changes_no_decision_and_moves_projections_by_as_much() -> None:
    chooser = np.random.default_rng(1)
    common = np.append(chooser.normal(size=STEPS), 0.7)
    plain, moved = QuickStopping(40.0, 5, 5), QuickStopping(40.0, 5, 5)
    stops = 0
    for trial in range(15):
        run = chooser.normal(size=STEPS + 1).cumsum()
        for stopping, values in ((plain, run), (moved, run + common)):
            stopping.observe(trial, smoothed(values[:10].tolist()))
        stops_now = plain.should_stop(trial)
        assert stops_now == moved.should_stop(trial)
        if stops_now:
            first, second = plain.projection(trial), moved.projection(trial)
            assert first is not None and second is not None
            assert second.objective == pytest.approx(first.objective + common[-1])
            assert second.deviation == pytest.approx(first.deviation)
            stops += 1
        else:
            plain.completed(trial, run[-1]), moved.completed(trial, run[-1] + common[-1])
    assert stops


Told = list[tuple[int, int, int]]


@pytest.fixture(scope="module")
def searches() -> tuple[dict[str, Found], Told]:
    """The same repeat with and without early stopping; every index, seed and step that the first was told of."""
    told: Told = []
    real = SearchStage.report

    def report(stage: SearchStage, job: TrialJob, progress: Progress) -> Ending | None:
        told.append((job.index, progress.seed, progress.step))
        return real(stage, job, progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SearchStage, "report", report)
        stopped = StoppingSearch(curve_landscape(), Setting(STOPPING), (7,), 5).found()
    return {"with": stopped, "without": StoppingSearch(curve_landscape(), Setting(None), (7,), 5).found()}, told


def test_a_search_without_early_stopping_trains_all_and_one_with_it_tries_more_in_as_many_steps(
    searches: tuple[dict[str, Found], Told],
) -> None:
    (stopped, whole), told = searches[0].values(), searches[1]
    assert [trial.steps for trial in whole.tried[:7]] == [2 * STEPS] * 7
    assert whole.by_trials == whole.by_steps and whole.by_trials[7].trials == 7
    assert len(stopped.tried) > 7 and "stopped" in [trial.ended for trial in stopped.tried[:7]]
    later = {index for index, *_ in told[7 * 2 * STEPS :]}
    assert stopped.by_steps[7].trials == sum(bool(trial.ended) and trial.index not in later for trial in stopped.tried)
    # The first trials are not proposed by the model: the two searches try the same, with the same luck.
    for mine, other in zip(stopped.tried[:7], whole.tried, strict=False):
        assert (mine.true, mine.measured) == (other.true, other.measured)
    assert steps_saved(whole, 7) == 0 < steps_saved(stopped, 7)


def test_ax_decides_as_the_quick_rule_in_a_whole_search(searches: tuple[dict[str, Found], Told]) -> None:
    ax = StoppingSearch(curve_landscape(), Setting(STOPPING), (5,), 5, quick=False).found()
    assert ax.tried[:5] == searches[0]["with"].tried[:5]
    assert "stopped" in [trial.ended for trial in ax.tried[:5]]


def test_steps_are_counted_as_often_as_the_search_was_told_of_one(searches: tuple[dict[str, Found], Told]) -> None:
    found, told = searches[0]["with"], searches[1]
    assert len(set(told)) == len(told)
    for trial in found.tried:
        assert trial.steps == sum(index == trial.index for index, _, _ in told)
    saved = 0
    for index in range(7):
        for seed in (0, 1):
            saved += STEPS - sum(each[:2] == (index, seed) for each in told)
    assert steps_saved(found, 7) == pytest.approx(saved / (7 * 2 * STEPS))
    # Two runs side by side, step by step: no run is ahead of its sibling by more than a step.
    for index in range(7):
        for (_, seed, step), (_, after, later) in pairwise([each for each in told if each[0] == index]):
            assert seed != after and abs(step - later) <= 1


def test_the_study_is_the_quickstarts() -> None:
    config = study_config(STOPPING, 5, 12)
    space = config.make_space()
    # What is fixed of a shape differs, but neither the points nor the arms that come first.
    assert space.parameters() == SPACE.parameters() and space.constraints() == SPACE.constraints()
    assert space.baselines() == SPACE.baselines()
    assert config.search.seed == 5 and config.search.early_stopping == STOPPING
    assert config.ppo.steps == STEPS and config.search.seeds == (0, 1)
    assert SETTINGS[DEFAULT].stopping == EarlyStoppingSettings()


def tried(index: int, true: float, steps: int, ended: str, projected: float = 0.0, deviation: float = 0.0) -> Tried:
    return Tried(index, true, true + 0.1, steps, ended, projected, deviation)


FIRST = Found(
    [tried(0, 0.5, 40, "completed"), tried(1, 0.6, 20, "stopped", 0.4, 0.05), tried(2, 0.1, 12, "stopped", 0.1, 0.1)],
    {2: Mark(2, 0, 0.3), 3: Mark(3, 0, 0.3)},
    {2: Mark(3, 0, 0.2), 3: Mark(3, 0, 0.1)},
    1.0,
)
OTHER = Found(
    [tried(place, 0.7, 40, "completed") for place in range(3)], {2: Mark(2, 1, 0.25)}, {2: Mark(2, 1, 0)}, 1.0
)


def test_what_was_saved_and_what_was_stopped_wrongly_are_counted_among_the_first_trials() -> None:
    assert steps_saved(FIRST, 2) == pytest.approx(20 / 80)
    assert steps_saved(FIRST, 3) == pytest.approx((20 + 28) / 120)
    assert wrongly_stopped(FIRST, 2) == [True] and wrongly_stopped(FIRST, 3) == [True, False]
    assert best_was_stopped(FIRST, 3) and not best_was_stopped(OTHER, 2)


def test_costs_are_paired_by_repeat_and_counted_from_the_search_without_early_stopping() -> None:
    without = {0: OTHER, 1: replace(OTHER, by_trials={2: Mark(2, 0, 0.05)})}
    assert costs({0: FIRST, 1: FIRST}, without, 2, equal_steps=False) == pytest.approx([0.05, 0.25])
    assert costs({0: FIRST, 1: FIRST}, without, 2, equal_steps=True) == pytest.approx([-0.05, 0.15])
    claims = search_claims("x.", {0: FIRST, 1: FIRST}, without, 2)
    assert claims["regret_cost"].name == "x.regret_cost_2" and claims["regret_cost"].n == 2
    assert claims["regret_cost"].value == pytest.approx(0.15)
    assert (claims["regret_cost"].low, claims["regret_cost"].high) == pytest.approx((0.05, 0.25))
    assert claims["regret_without"].value == pytest.approx(0.15)
    # Only FIRST goes on for 3 trials, and has nothing to be compared with there.
    assert costs({0: FIRST}, without, 3, equal_steps=False) == []


def test_projections_are_held_against_true_ends_and_against_what_would_have_been_measured() -> None:
    claims = projection_claims("", {0: FIRST, 1: FIRST}, span=2.0)
    assert claims["bias"].value == pytest.approx(fmean([-0.2, 0.0]) / 2)
    assert claims["spread"].value == pytest.approx(0.1 / 2)
    assert claims["stated"].value == pytest.approx(0.075 / 2)
    # -0.2 is 4 deviations, 0 none; measured ends are higher by 0.1.
    assert claims["coverage"].value == 0.5 and claims["measured_coverage"].value == 0.5
    assert projection_claims("", {0: OTHER}, span=1.0) == {}


def test_a_share_over_all_trials_is_resampled_by_whole_repeats() -> None:
    claim = pooled_claim("share", [[1.0] * 9, [0.0], []])
    assert claim is not None and claim.n == 2
    # Trials one by one would hardly ever give less than a half.
    assert (claim.value, claim.low, claim.high) == pytest.approx((0.9, 0.0, 1.0))


def test_the_advice_is_what_saves_most_among_what_is_known_to_cost_little() -> None:
    bold, cautious = "60 % from 0.25", "20 % from 0.5"

    def searched(steps: int, regrets: tuple[float, float]) -> dict[int, Found]:
        rows = [tried(place, 0.5, steps, "completed") for place in range(2)]
        return {at: Found(rows, {2: Mark(2, 0, each)}, {2: Mark(2, 0, each)}, 1.0) for at, each in enumerate(regrets)}

    # The bold one is as good on average, but two repeats that differ so much say little.
    found = {name: {} for name in SETTINGS} | {PLAIN: searched(40, (0.1, 0.2)), bold: searched(10, (0.0, 0.3))}
    found |= {DEFAULT: searched(20, (0.12, 0.21)), cautious: searched(30, (0.1, 0.2))}
    assert f"`{DEFAULT}` saves most: 50.0" in advice(found, 2)
    assert "no setting" in advice(found | {DEFAULT: {}, cautious: {}}, 2)


def test_saved_searches_count_only_for_the_code_that_made_them(tmp_path: Path) -> None:
    done = Done(Job(DEFAULT, 2, 25), fingerprint(), FIRST)
    assert Done.of(done.line()) == done
    other = replace(done, job=Job(PLAIN, 2, 25), fingerprint="another")
    path = tmp_path / "saved.jsonl"
    path.write_text("\n".join(each.line() for each in (done, other)) + "\n")
    assert early_stopping.read_saved(path) == {done.job: done}


def test_the_default_and_what_it_is_compared_with_have_more_repeats_and_longer_ones() -> None:
    planned = early_stopping.jobs(Namespace(repeats=4, long_repeats=2, other_repeats=3))
    lengths = {name: [job.trials for job in planned if job.setting == name] for name in SETTINGS}
    assert lengths[PLAIN] == lengths[DEFAULT] == [50, 50, 25, 25]
    assert lengths[ALONE] == [25] * 3
    # Every search with early stopping has one without that goes on for as long.
    keys = {(job.setting, job.repeat): job.trials for job in planned}
    for job in planned:
        assert keys[early_stopping.without_stopping(job.setting), job.repeat] >= job.trials
