"""The landscapes, searchers and arithmetic of the outer loop's benchmark."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel

from benchmarks.outer import comparison as outer
from benchmarks.outer import regret as regrets
from benchmarks.outer.comparison import Done, Job, fingerprint
from benchmarks.outer.methods import (
    FORMER,
    RANDOM,
    READ,
    READ_BASELINES,
    SEARCHERS,
    SHAPETUNE,
    TPE,
    FormerSpace,
    Search,
    exponential_shares,
    random_rows,
    search_landscape,
    spacings,
)
from benchmarks.outer.problems import (
    LAMBDA,
    PEAK,
    SPACE,
    Landscape,
    Runs,
    extremes,
    face,
    features,
    landscape,
    many_rows,
    measured_runs,
    noise_level,
    peak,
    point_of,
    residuals,
    row_of,
    variances,
)
from benchmarks.outer.regret import RANDOM_TRIALS, at, median_claim, ratio, regret_claims, trials_saved

# No true differences: what is seen is luck alone.
FLAT = Landscape("flat", lambda rows: np.zeros(len(rows)), lambda rows: np.full(len(rows), 0.5), 0.0, 1.0)


def test_the_peak_is_where_its_two_terms_vanish_and_its_bottom_at_a_corner() -> None:
    best, span = extremes(peak)
    # A concave function is least at one of the space's corners.
    corners = [[*share, end] for share in [*np.eye(3), np.zeros(3)] for end in LAMBDA]
    assert best == pytest.approx(0.0, abs=1e-9)
    assert span == pytest.approx(-min(float(peak(np.array([corner]))[0]) for corner in corners), abs=1e-9)
    optimum = np.array([*PEAK, LAMBDA[0] + (1 - 0.6 * PEAK.sum()) * (LAMBDA[1] - LAMBDA[0])])
    for name in ("peak_3", "peak_10"):
        assert landscape(name).regret(optimum) == pytest.approx(0.0, abs=1e-9)


def test_the_face_is_best_without_sparse_and_without_the_harmful_method() -> None:
    best, span = extremes(face)
    share = np.linspace(0, 1, 200_001)
    along = 1.2 * np.tanh(2.5 * share) + 0.7 * np.tanh(3 * (1 - share))
    # Least: all of the harmful method, at the lambda furthest from the best; both terms are at their ends there.
    assert best == pytest.approx(along.max(), abs=1e-8)
    assert span == pytest.approx(along.max() + 0.9 + 0.5 * 0.65**2, abs=1e-8)
    first = share[along.argmax()]
    optimum = np.array([first, 0.0, 1 - first, LAMBDA[0] + (0.35 + 0.3 * (1 - first)) * (LAMBDA[1] - LAMBDA[0])])
    assert landscape("face_10").regret(optimum) == pytest.approx(0.0, abs=1e-8)
    assert landscape("face_10").regret(np.array([0.0, 1.0, 0.0, LAMBDA[1]])) == pytest.approx(1.0, abs=1e-8)


def test_the_noise_of_a_closed_form_is_its_share_of_the_span_in_the_mean_of_two_seeds() -> None:
    row = np.array([0.2, 0.3, 0.1, 0.8])
    for name, share in (("face_3", 0.03), ("face_10", 0.1)):
        surface = landscape(name)
        observe = surface.observer(0)
        seen = np.array([observe(row) for _ in range(4_000)])
        assert seen.mean(axis=1).std() / surface.span == pytest.approx(share, rel=0.05)
        assert seen.std() / surface.span == pytest.approx(share * np.sqrt(2), rel=0.05)
        assert seen.mean() == pytest.approx(float(face(row[None])[0]), abs=0.01 * surface.span)


def test_many_rows_are_of_the_space_and_hold_its_corners() -> None:
    rows = many_rows()
    assert rows[:, :3].min() >= 0 and rows[:, :3].sum(axis=1).max() <= 1 + 1e-12
    assert rows[:, 3].min() == LAMBDA[0] and rows[:, 3].max() == LAMBDA[1]
    for share in [*np.eye(3), np.zeros(3)]:
        assert (rows[:, :3] == share).all(axis=1).sum() >= 2


def test_rows_and_shapes_say_the_same() -> None:
    for row in many_rows()[:200]:
        assert row_of(SPACE.decode(point_of(row))) == pytest.approx(row, abs=1e-9)
    mixed = SPACE.base.with_changes(weights={"prefix": 0.5, "shapley": 0.5}, balance=0.4, gae_lambda=0.7)
    assert row_of(mixed) == pytest.approx([0.2, 0.0, 0.2, 0.7])


@pytest.mark.parametrize(("fold", "numbers"), [(spacings, 3), (exponential_shares, 4)])
def test_numbers_fold_evenly_onto_the_simplex(fold, numbers: int) -> None:
    chooser = np.random.default_rng(0)
    shares = np.array([fold(row) for row in chooser.random((10_000, numbers))])
    assert shares.shape == (10_000, 4) and shares.min() >= 0
    assert shares.sum(axis=1) == pytest.approx(np.ones(10_000))
    # Every part of a uniform point of a simplex of four parts exceeds x with probability (1 - x)^3.
    for part in shares.T:
        for x in (0.05, 0.2, 0.5, 0.8):
            assert np.mean(part > x) == pytest.approx((1 - x) ** 3, abs=0.015)


def test_numbers_at_their_ends_fold_onto_the_simplex() -> None:
    assert exponential_shares(np.ones(4)) == pytest.approx(np.full(4, 0.25))
    assert exponential_shares(np.array([0.0, 1.0, 1.0, 1.0])) == pytest.approx([1.0, 0.0, 0.0, 0.0])
    assert spacings(np.array([1.0, 0.0, 0.0])) == pytest.approx([0.0, 0.0, 1.0, 0.0])


def test_every_searcher_has_the_same_luck_and_stays_in_the_space() -> None:
    chooser = np.random.default_rng([3, 7])
    luck = [float((chooser.normal(size=2) * 0.5 * np.sqrt(2)).mean()) for _ in range(8)]
    for name in (*RANDOM, "Sobol", TPE, SHAPETUNE, READ_BASELINES, FORMER):
        search, seconds = search_landscape(name, FLAT, (8,), 3)
        assert search.values == pytest.approx(luck), name
        assert seconds > 0
        rows = np.array(search.rows)
        assert rows.shape == (8, 4) and rows[:, :3].min() >= 0 and rows[:, :3].sum(axis=1).max() <= 1 + 1e-9, name
        assert LAMBDA[0] <= rows[:, 3].min() and rows[:, 3].max() <= LAMBDA[1], name
        assert any((row == search.recommended[max(search.recommended)]).all() for row in rows), name
    assert search_landscape(SHAPETUNE, FLAT, (2,), 4)[0].values != pytest.approx(luck[:2])


def test_what_the_model_reads_is_the_baselines_then_what_random_search_tries() -> None:
    search, _ = search_landscape(READ_BASELINES, FLAT, (7,), 5)
    baselines = [row_of(SPACE.decode(arm.point)) for arm in SPACE.baselines()]
    assert np.array(search.rows) == pytest.approx(np.array([*baselines, *random_rows(5, 3)]))
    tried = search_landscape(RANDOM[0], FLAT, (3,), 5)[0].rows
    assert np.array(tried) == pytest.approx(random_rows(5, 3))


def test_the_best_seen_is_recommended_from_when_it_was_seen() -> None:
    search = Search()
    rows = [np.array([float(number)]) for number in range(5)]
    for row, value in zip(rows, (1.0, 3.0, 2.0, 3.0, 4.0), strict=True):
        search.add_best_seen(row, value)
    assert {trials: float(row[0]) for trials, row in search.recommended.items()} == {1: 0.0, 2: 1.0, 5: 4.0}


def test_the_former_space_starts_with_the_same_arms_and_reaches_the_same_shapes() -> None:
    former = FormerSpace()
    for old, new in zip(former.baselines(), SPACE.baselines(), strict=True):
        assert old.name == new.name
        assert row_of(former.decode(old.point)) == pytest.approx(row_of(SPACE.decode(new.point)))
    point = {"weight_prefix": 0.5, "weight_attention": 0.3, "balance": 0.5, "gae_lambda": 0.7}
    assert row_of(former.decode(point)) == pytest.approx([0.25, 0.15, 0.1, 0.7])
    assert former.encode(former.decode(point)) == pytest.approx(point)
    beyond = former.decode({**point, "weight_prefix": 0.7 + 1e-13})
    assert sum(beyond.weights.values()) == pytest.approx(1.0, abs=1e-15) and beyond.weights["shapley"] == 0.0


def test_measured_runs_pair_the_shared_seed_with_the_rows_own() -> None:
    runs = measured_runs()
    assert runs.rows.shape == (160, 4)
    # The first lines of the file: prefix alone at lambda 0.9651, on seeds 0 and 1000.
    assert runs.rows[0] == pytest.approx([1.0, 0.0, 0.0, 0.9651022309110887])
    assert (runs.shared[0], runs.own[0]) == (0.35024, 0.47203)
    assert runs.rows[:, :3].sum(axis=1).max() <= 1 + 1e-12
    assert np.ptp(runs.rows[:, :3].sum(axis=1)) > 0.9


def test_the_replay_follows_real_runs_and_has_their_noise() -> None:
    runs, surface = measured_runs(), landscape("replay")
    assert np.corrcoef(surface.mean(runs.rows), runs.means)[0, 1] > 0.95
    assert all(surface.regret(row) <= 1 for row in runs.rows)
    assert surface.best >= surface.mean(many_rows()).max()
    # Pairing takes off little of J's noise, so that a run on a shared seed has about as much as any.
    real = np.var(runs.own - runs.shared) / 2
    assert 2 * np.mean(surface.deviation(runs.rows) ** 2) == pytest.approx(real, rel=0.2)
    # Noise is least where the reward is best, as it is between real runs.
    order = np.argsort(surface.mean(runs.rows))
    deviations = [np.std((runs.own - runs.shared)[part]) for part in (order[:40], order[-40:])]
    expected = [np.sqrt(np.mean(surface.deviation(runs.rows[part]) ** 2)) for part in (order[:40], order[-40:])]
    assert expected[1] / expected[0] == pytest.approx(deviations[1] / deviations[0], abs=0.15)


def test_what_a_model_misses_is_in_neither_variance() -> None:
    missed, shared, own = np.ones(4), np.array([2.0, 2.0, -2.0, -2.0]), np.array([3.0, -3.0, 3.0, -3.0])
    assert variances(missed + shared, missed + own) == pytest.approx((4.0, 9.0))
    claim = outer.paired_variance_ratio("ratio", np.tile(missed + shared, 500), np.tile(missed + own, 500))
    assert claim.value == pytest.approx(4 / 9)
    assert claim.low < 4 / 9 < claim.high and claim.n == 2_000


def test_residuals_are_those_of_leaving_a_row_out() -> None:
    chooser = np.random.default_rng(0)
    rows = np.column_stack([chooser.dirichlet(np.ones(4), 9)[:, :3], chooser.uniform(*LAMBDA, 9)])
    values = rows @ np.array([1.0, -1.0, 0.5, 2.0]) + chooser.normal(0, 0.1, 9)
    runs = Runs(rows, values - 0.3 + chooser.normal(0, 0.1, 9), values)
    kernel = RBF(0.7) + WhiteKernel(0.1)
    model = GaussianProcessRegressor(kernel, optimizer=None).fit(features(rows), runs.means)
    shared, own = residuals(runs, model)
    for out in range(9):
        others = np.arange(9) != out
        without = GaussianProcessRegressor(kernel, optimizer=None)
        without.fit(features(rows[others]), runs.means[others] - runs.means.mean())
        predicted = float(without.predict(features(rows[[out]]))[0]) + runs.means.mean()
        assert own[out] == pytest.approx(runs.own[out] - predicted)
        # The shared seed's runs are lower by as much in the mean, which is no noise.
        assert shared[out] - own[out] == pytest.approx(
            runs.shared[out] - runs.own[out] - (runs.shared - runs.own).mean()
        )


def test_the_noise_level_is_read_from_differences_of_two_runs() -> None:
    chooser = np.random.default_rng(0)
    means = chooser.uniform(0, 1, 20_000)
    deviation = np.sqrt(np.exp(-3 - 2 * means))
    differences = 0.2 + chooser.normal(size=(2, 20_000)) * deviation
    level = noise_level(means, differences[0] - (differences[1] - 0.2))
    asked = np.array([0.0, 0.5, 1.0])
    assert level(asked) == pytest.approx(np.exp(-3 - 2 * asked), rel=0.05)


def test_a_ratio_over_landscapes_is_the_geometric_mean_of_ratios_of_medians() -> None:
    first = (np.array([0.1, 0.2, 0.9]), np.array([0.4, 0.4, 0.1]))
    second = (np.array([0.01, 0.01, 0.01]), np.array([0.08, 0.0, 0.9]))
    assert ratio([first]) == pytest.approx(0.5)
    assert ratio([first, second]) == pytest.approx(0.25)
    # Two searches that both find the maximum are equally good.
    assert ratio([(np.zeros(3), np.full(3, 1e-9))]) == 1.0


def test_trials_saved_are_those_until_the_better_random_search_is_first_as_good() -> None:
    def falling(trial: int) -> np.ndarray:
        return np.tile(np.where(np.arange(1, RANDOM_TRIALS + 1) < trial, 0.5, 0.1), (3, 1))

    def saved(*pairs: tuple[np.ndarray, list[np.ndarray]]) -> float:
        return trials_saved([(ours, np.stack(theirs)) for ours, theirs in pairs])

    ours, never = np.array([0.1, 0.2, 0.9]), np.full((3, RANDOM_TRIALS), 0.5)
    assert saved((ours, [falling(100), never])) == pytest.approx(4.0)
    assert saved((ours, [falling(200), falling(50)])) == pytest.approx(2.0)
    assert saved((ours, [never, never])) == pytest.approx(RANDOM_TRIALS / 25)
    assert saved((ours, [never, falling(100)]), (ours, [never, never])) == pytest.approx(8.0)


def test_claims_compare_with_the_rival_that_is_better_at_each_landscape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regrets, "RESAMPLED", 50)

    def searches(at_25: float, at_50: float, repeats: int) -> list[dict[int, float]]:
        return [{1: 9.0, 25: at_25, 50: at_50} for _ in range(repeats)]

    found = {SHAPETUNE: searches(0.2, 0.1, 6), TPE: searches(0.6, 0.3, 9), READ: searches(0.2, 0.1, 6)}
    found |= {READ_BASELINES: searches(0.8, 0.4, 6)}
    first = found | {RANDOM[0]: searches(0.6, 0.15, 9), RANDOM[1]: searches(0.4, 0.2, 9)}
    second = found | {RANDOM[0]: searches(1.6, 0.8, 9), RANDOM[1]: searches(2.0, 0.9, 9)}
    claims = {claim.name: claim for claim in regret_claims({"face_3": first, "replay": second})}
    expected = {
        "outer.regret_over_random_25_face_3": 1 / 2,
        "outer.regret_over_random_25_replay": 1 / 8,
        "outer.regret_over_random_25": 1 / 4,
        "outer.regret_over_random_50_face_3": 2 / 3,
        "outer.regret_over_tpe_50": 1 / 3,
        "outer.regret_over_read_random_50": 1.0,
        # At 50 trials random is first as good at the one landscape, and never at the other.
        "outer.trials_saved_vs_random_face_3": 2.0,
        "outer.trials_saved_vs_random_replay": 16.0,
        "outer.trials_saved_vs_random": 32**0.5,
    }
    for name, value in expected.items():
        # All repeats are alike, so that the interval is a point.
        assert (claims[name].value, claims[name].low, claims[name].high) == pytest.approx((value,) * 3), name
        assert claims[name].n == 6


def test_repeats_are_resampled_together_at_all_landscapes() -> None:
    chooser = np.random.default_rng(0)
    up = chooser.uniform(1, 3, 7)
    pairs = {"face_3": (up, np.ones(4)), "replay": (1 / up, np.ones(4))}
    together, *apart = regrets._over_landscapes("ratio", pairs, regrets._ratio_of_taken)
    # Whichever are taken, what one landscape's median gains the other's loses.
    assert (together.value, together.low, together.high) == pytest.approx((1.0, 1.0, 1.0))
    assert all(claim.high > 1.2 * claim.low for claim in apart)


def test_a_medians_interval_is_the_percentile_bootstraps() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=25)
    peer = bootstrap((values,), np.median, method="percentile", n_resamples=20_000, confidence_level=0.9, rng=1)
    claim = median_claim("median", values.tolist(), level=0.9)
    assert claim.value == np.median(values)
    assert (claim.low, claim.high) == pytest.approx(peer.confidence_interval, abs=0.05)
    wider = median_claim("median", values.tolist())
    assert wider.low < claim.low and claim.high < wider.high


def test_a_regret_holds_until_the_next_recommendation() -> None:
    found = {1: 0.9, 4: 0.3, 30: 0.5}
    assert [at(found, trials) for trials in (1, 3, 4, 29, 30, 400)] == [0.9, 0.9, 0.3, 0.3, 0.5, 0.5]


def test_saved_searches_count_only_for_the_code_that_made_them(tmp_path: Path) -> None:
    job = Job("replay", SHAPETUNE, 2)
    done = Done(job, fingerprint(True), {25: 0.25, 50: 0.125}, [3.5])
    assert Done.of(done.line()) == done
    other = replace(done, job=Job("replay", TPE, 2))
    path = tmp_path / "saved.jsonl"
    path.write_text("\n".join(each.line() for each in (done, other)) + "\n")
    # TPE's searches do not depend on this project's model.
    assert fingerprint(True) != fingerprint(False)
    assert outer.read_saved(path) == {job: done}


def test_slow_searchers_have_fewer_repeats_and_cheap_ones_more() -> None:
    options = Namespace(landscapes=["replay", "peak_3"], repeats=4, cheap_repeats=5, ablation_repeats=2, ax_repeats=1)
    planned = outer.jobs(options)
    counts = {name: sum(job.searcher == name for job in planned) for name in SEARCHERS}
    assert counts.pop(outer.AX) == 2
    assert {counts.pop(name) for name in (outer.MEANS_ONLY, FORMER)} == {4}
    assert {counts.pop(name) for name in outer.CHEAP} == {10}
    assert set(counts.values()) == {8} and SHAPETUNE in counts
    assert [job.repeat for job in planned] == sorted(job.repeat for job in planned)
    assert Job("replay", RANDOM[1], 0).stops[-1] == RANDOM_TRIALS
