"""Credit fidelity and what is learned: relations over methods, and which runs they are found from."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from scipy.stats import spearmanr

from benchmarks.fidelity import tables
from benchmarks.fidelity.field import contenders
from benchmarks.fidelity.learning import OVERALL, compared, over_lambdas, relate, relations_of, uninformed, values
from benchmarks.fidelity.training import LAMBDAS
from benchmarks.papers.field import REWARD_MODEL, TUNED
from shaping import Shape
from tests.support.paper_runs import run


def test_a_relation_is_spearmans_over_methods_and_its_interval_holds_their_luck() -> None:
    fidelity = {"a": 0.1, "b": 0.5, "c": 0.9, "d": 0.7, "e": 0.95, "unlearned": 3.0}
    learned = {"a": [0.0, 0.1], "b": [0.3], "c": [0.8, 0.7], "d": [0.9, 0.95], "e": [1.4, 1.2], "unlearned": []}
    found = relate(("f", fidelity), ("j", learned))
    assert found.value == pytest.approx(spearmanr([0.1, 0.5, 0.9, 0.7, 0.95], [0.05, 0.3, 0.75, 0.925, 1.3])[0])
    assert found.methods == 5 and found.low < found.value <= found.high <= 1
    # Up to rounding these methods know as much as each other, so whoever learned more did not know more.
    equals = relate(("f", {"a": 1.0, "b": 1 - 1e-7, "c": 0.2}), ("j", {"a": [1.0], "b": [2.0], "c": [0.0]}))
    assert equals.value == pytest.approx(spearmanr([2.5, 2.5, 1], [2, 3, 1])[0])
    assert math.isnan(relate(("f", {"a": 1.0, "b": 2.0}), ("j", learned)).value)
    assert tables.relation_claims("x", [relate(("f", {"a": 1.0}), ("j", learned))]) == []
    backwards = relate(("f", {name: -value for name, value in fidelity.items()}), ("j", learned))
    assert backwards.value == pytest.approx(-found.value)


def test_lost_runs_teach_nothing_and_lambdas_are_paired_by_seed() -> None:
    runs = {"a": [run("a", 0, 2.0), run("a", 1, math.nan, "kl_limit")], "b": [run("b", 0, 4.0)]}
    assert values(runs, "final J") == {"a": [2.0], "b": [4.0]}
    assert values(runs, "mean J along the curve") == {"a": [1.5], "b": [3.5]}
    other = {"a": [run("a", 0, 6.0), run("a", 1, 8.0)], "b": []}
    assert over_lambdas([runs, other], "final J") == {"a": [4.0], "b": []}
    learned = {("a", 0.8): runs["a"], ("a", 0.95): other["a"], ("b", 0.8): runs["b"]}
    found = relations_of({"correlation": {"a": 0.5, "b": 0.7}}, learned)
    assert found[0].learning == OVERALL and len(found) == 1 + 2 * len(LAMBDAS)


def test_the_comparisons_fresh_runs_are_those_of_the_setting_that_was_run_most() -> None:
    field = contenders(Shape())
    tuning, fresh = run("R3HF", 0, 9.0), [run("R3HF", seed, 1.0) for seed in (200, 201)]
    former = run("R3HF", 200, 5.0, gae_lambda=0.6)
    other = [run("ABC", 200, 3.0), run(TUNED, 200, 0.0), run("attention alone", 203, 2.0)]
    found = compared(field, [tuning, former, *fresh, *other])
    assert found == {"prefix": fresh, "attention": [other[2]], "sparse": [other[1]]}


def test_what_is_learned_without_an_informed_critic_is_the_mean_over_lambdas_on_the_tuning_seeds() -> None:
    kept = [
        run("R3HF", seed, 2.0 * gae_lambda + seed, gae_lambda=gae_lambda) for seed in (0, 1) for gae_lambda in (0, 1)
    ]
    others = [run("R3HF", 200, 9.0), replace(run("R3HF", 0, 9.0, gae_lambda=0), critic=REWARD_MODEL)]
    found = uninformed(contenders(Shape()), kept + others)
    # The curve is half a point below J.
    assert found.pop("prefix") == pytest.approx([0.5, 1.5])
    assert not any(found.values()) and uninformed(contenders(Shape()), []) == {}
