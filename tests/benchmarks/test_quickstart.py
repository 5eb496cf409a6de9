"""The benchmark of the quickstart: studies share no seeds, a rival is chosen against the winner, counts have bounds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.quickstart.__main__ import claims_of, count_claim, tables_of
from benchmarks.quickstart.clones import Timing
from benchmarks.quickstart.studies import Found, changes, found_by
from pipeline.config.load import find_config, load_config
from pipeline.study.folder import StudyFolder
from pipeline.trials.arm import Arm
from pipeline.trials.records import TrialFiles
from pipeline.trials.results import RunResult, TrialResult
from shaping.certificate import Certificate
from shaping.shape import Shape

FOUND = Found(3, "1.00 lime, lambda 0.80", 1.5, "sparse", 0.5, ())


def test_no_two_studies_share_a_seed_and_none_has_one_of_the_config() -> None:
    configs = [load_config(find_config("quickstart"), changes(seed, is_confirmed=True)) for seed in range(20)]
    own = load_config(find_config("quickstart"))
    every = [seed for config in (*configs, own) for seed in (*config.search.seeds, *config.confirm.seeds)]
    assert len(set(every)) == len(every)
    assert len({config.search.seed for config in configs}) == 20
    # Nothing else is changed: it is the quickstart that is measured.
    for config in configs:
        search = replace_fields(config.search, seed=own.search.seed, seeds=own.search.seeds)
        same = replace_fields(config, name=own.name, search=search, confirm=own.confirm)
        assert same == own
        assert len(config.confirm.seeds) == len(own.confirm.seeds)


def replace_fields(settings: object, **values: object) -> object:
    return settings.model_copy(update=values)  # type: ignore[attr-defined]


def test_a_count_has_the_interval_of_clopper_and_pearson() -> None:
    # By the closed form at the ends: (alpha / 2) ** (1 / n).
    all_of_ten = count_claim("x", 10, 10)
    assert (all_of_ten.value, all_of_ten.high) == (10, 10)
    assert all_of_ten.low == pytest.approx(10 * 0.025**0.1)
    none = count_claim("x", 0, 20)
    assert (none.low, none.high) == (0, pytest.approx(20 * (1 - 0.025 ** (1 / 20))))


def test_claims_count_what_was_not_below_and_take_gains_from_confirmed_studies_alone() -> None:
    found = [FOUND, replace(FOUND, seed=4, gain=-0.1), replace(FOUND, seed=5, gain=0.2, bounds=("gae_lambda",))]
    searched = [Found(6, "1.00 prefix, lambda 0.80", None, None, None, ("ppo.learning_rate",))]
    timing = Timing(60.0, 100.0, 250.0, 280.0)
    claims = {
        each.name: each for each in claims_of([*found, *searched], [timing, replace(timing, total_seconds=270.0)])
    }
    assert (claims["quickstart.not_below_best_rival"].value, claims["quickstart.not_below_best_rival"].n) == (2, 3)
    gain = claims["quickstart.gain_over_best_rival"]
    assert (gain.value, gain.n) == (pytest.approx(0.2), 3)
    assert claims["quickstart.gain_over_best_rival_low"].value == gain.low < gain.value
    assert (claims["quickstart.winners_on_a_bound"].value, claims["quickstart.winners_on_a_bound"].n) == (2, 4)
    assert claims["quickstart.total_seconds"].value == 260.0
    assert "ppo.learning_rate" in tables_of(searched, list(claims.values()))


def run(seed: int, objective: float) -> RunResult:
    point = {"objective": objective, "reward": objective, "kl_nats": 0.0}
    return RunResult(seed, (point,) * 8, {**point, "texts": []}, Certificate.empty(Shape()))


def test_the_best_rival_is_the_one_with_the_highest_mean_and_what_has_credit_is_none(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "quickstart-7")
    folder.create(load_config(find_config("quickstart")))
    means = {"winner": (1.0, 2.0), "sparse": (0.9, 1.9), "uniform": (1.7, 1.2), "with credit, lime": (3.0, 3.0)}
    for name, objectives in means.items():
        for seed, objective in enumerate(objectives):
            arm = Arm(name, Shape(weights={"prefix": 1.0}))
            folder.confirm_folder(name, seed).mkdir(parents=True)
            TrialFiles(folder.confirm_folder(name, seed)).write_result(arm, TrialResult.of([run(seed, objective)]))
    folder.winner_file.write_text(json.dumps({**Arm("8_0", Shape(weights={"prefix": 1.0})).to_dict(), "trials": 12}))
    reached = {"bound": 1.0, "remedy": "widen"}
    both = [{"parameter": "a", "by_winner": True, **reached}, {"parameter": "b", "by_winner": False, **reached}]
    folder.bounds_file.write_text(json.dumps(both))
    found = found_by(folder.root)
    assert (found.seed, found.best_rival, found.objective) == (7, "uniform", 1.5)
    assert found.gain == pytest.approx(0.05)
    # Where the model puts its best place no winner stands.
    assert found.bounds == ("a",)
