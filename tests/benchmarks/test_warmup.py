"""Sparse PPO whose critic is taught beforehand: what is tuned, what is counted, what is claimed."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import warmup
from benchmarks.papers.comparison import Comparison
from benchmarks.papers.field import TUNED, WINNER, Candidate
from benchmarks.papers.runs import saved_runs
from benchmarks.papers.settings import Setting
from benchmarks.papers.tuning import Tuned, Tuner
from pipeline.trials.arm import Arm
from shaping import Shape

# Each token of a response is a pass of the policy.
SHORT = "sampling.response_tokens=6"
SPARSE = Candidate(TUNED, Arm.with_critic(TUNED, Shape(weights={"sparse": 1.0}, gae_lambda=1.0), "value_head"))
PREFIX = Candidate(WINNER, Arm(WINNER, Shape(weights={"prefix": 1.0}, gae_lambda=1.0)))


@pytest.mark.slow
@pytest.mark.usefixtures("one_process")
def test_batches_before_come_on_top_and_each_number_of_them_is_tuned_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(warmup.WARM_FACTORS, "smoke", (0.5, 1.0))
    setting = Setting(
        "smoke",
        ("evaluation.every_steps=2", "evaluation.curve_prompts=8", "search.seeds=[0, 1]", SHORT),
        seeds=2,
        lambdas=(0.8, 1.0),
    )
    config, path = setting.loaded(), tmp_path / "warmup-smoke.csv"
    tuner = Tuner("smoke", setting, path, 1, "c", Console(quiet=True))
    base = {each.entrant: tuner.tuned(each, (1.0,)) for each in (SPARSE, PREFIX)}
    comparison = Comparison("smoke", config, {TUNED: SPARSE, WINNER: PREFIX}, {}, {}, {})
    found = warmup.taught(tuner, comparison, TUNED, (0, 3))
    monkeypatch.setattr(warmup, "LONGER_BATCHES", 4)
    after = warmup.longer(tuner, comparison)["sparse, 4 batches longer"]
    assert after.candidate.arm.shape.active_methods() == {"sparse": 1.0}
    assert after.candidate.arm.critic == "value_head"
    assert [(len(run.curve), len(run.held_out)) for run in after.runs] == [(config.ppo.steps + 4, 1 + 4)] * 2
    without, before = found["sparse, critic network"], found["sparse, critic network, 3 batches before"]
    steps, rate = config.ppo.steps, config.ppo.learning_rate
    for each, expected, looks in ((without, steps, 3), (before, steps + 3, 2)):
        assert set(each.tried) == {(rate * factor, value) for factor in (0.5, 1.0) for value in (0.8, 1.0)}
        assert each.tried[each.learning_rate, each.candidate.arm.shape.gae_lambda] == max(each.tried.values())
        assert each.candidate.arm.critic == "network" and each.candidate.arm.shape.active_methods() == {"sparse": 1.0}
        assert [len(run.curve) for run in each.runs] == [expected] * 2
        assert all(len(run.held_out) == looks for run in each.runs)
    saved = saved_runs(path).values()
    assert sum(run.entrant.startswith("sparse, critic") for run in saved) == 2 * (4 * 2 + 2)

    every: dict[str, Tuned] = {**base, **found}
    with_network = warmup.taught(tuner, comparison, WINNER, (0,))
    assert set(with_network) == {"winner, critic network"}
    every |= with_network
    told = {claim.name: claim.value for claim in warmup.claims_of(comparison, every)}
    name = "sparse_critic_network_3_batches_before"
    for claim, ours, theirs in (
        (f"winner_gain_over.{name}", base[WINNER], before),
        (f"winner_critic_network_gain_over.{name}", with_network["winner, critic network"], before),
        (f"gain_over_sparse.{name}", before, base[TUNED]),
        ("gain_over_sparse.winner_critic_network", with_network["winner, critic network"], base[TUNED]),
    ):
        by_hand = [a.objective - b.objective for a, b in zip(ours.runs, theirs.runs, strict=True)]
        assert told[f"warmup.smoke.{claim}"] == pytest.approx(sum(by_hand) / 2)
    # Steps are compared where there are as many.
    ratios = {each.split("_over.")[1] for each in told if "steps_ratio" in each}
    assert ratios == {"sparse_tuned", "sparse_critic_network"}
    _, _, *rows = warmup.section(comparison, every).split("\n\n")[1].splitlines()
    assert [row.removeprefix("| ").split(" | ")[0] for row in rows] == list(every)
