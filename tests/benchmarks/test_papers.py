"""The papers' comparison: who takes part at what scale, what is measured, and that nothing is made twice."""

from __future__ import annotations

import csv
import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.papers import comparison, pictures, runs, study
from benchmarks.papers.comparison import Comparison, Unfinished, compare, taken_over
from benchmarks.papers.field import DOUBLED, ENTRANTS, HEAD_ONLY, LAMBDAS, SPARSE, TUNED, WINNER, Candidate, candidates
from benchmarks.papers.measures import (
    before_training,
    corrected,
    gain_at_matched_kl,
    gain_by_training,
    median,
    steps_ratio,
    within_kl,
)
from benchmarks.papers.overview import draw_overview, overview_table
from benchmarks.papers.runs import COMPLETED, Run, saved_runs
from benchmarks.papers.settings import SETTINGS, Setting
from benchmarks.papers.tables import claims, learning_words, shown, text
from pipeline.config.load import parse_config
from pipeline.study.verdict import Difference
from pipeline.trials.arm import Arm
from shaping import Shape
from tests.support.models.tiny_task import tiny_task


def run(seed: int = 0, curve: tuple[float, ...] = (), held_out: tuple[tuple[float, float, float], ...] = ()) -> Run:
    last = curve[-1] if curve else 0.0
    return Run("x", 0.95, "", seed, "j", "c", COMPLETED, objective=last, curve=curve, held_out=held_out)


def test_corrected_p_values_are_holms() -> None:
    assert corrected({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert corrected({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_reward_within_a_kl_is_the_best_on_the_way_there_and_back() -> None:
    fell = run(held_out=((0.0, 0.0, 0.0), (4.0, 2.0, 0.0), (3.0, 9.0, 0.0), (8.0, 4.0, 0.0)))
    # On the way to 4 nats; on the way from 3 to 8, where it falls by one a nat; at its best; never on the way.
    assert [within_kl(fell, kl) for kl in (0.0, 2.0, 2.9)] == pytest.approx([0.0, 1.0, 1.45])
    assert [within_kl(fell, kl) for kl in (3.0, 6.0, 9.0)] == pytest.approx([9.0, 9.0, 9.0])
    late = run(held_out=((0.0, 0.0, 0.0), (5.0, 1.0, 0.0), (3.0, 7.0, 0.0)))
    assert within_kl(late, 4.0) == pytest.approx(7.0)
    assert within_kl(late, 2.0) == pytest.approx(0.4)


def test_reward_at_matched_kl_does_not_pay_for_drift() -> None:
    # The same reward for each nat; one drifts three times as far and so ends three times as high.
    far = [run(seed, held_out=((0.0, 0.0, 0.0), (9.0, 9.0 + seed, 0.0))) for seed in range(4)]
    near = [run(seed, held_out=((0.0, 0.0, 0.0), (3.0, 3.0 + seed / 3, 0.0))) for seed in range(4)]
    found = gain_at_matched_kl(far, near)
    assert found.mean == pytest.approx(0.0) and found.seeds == 4
    better = [run(seed, held_out=((0.0, 0.0, 0.0), (5.0, 10.0, 0.0))) for seed in range(4)]
    assert gain_at_matched_kl(better, near).mean == pytest.approx(6.0 - 3.5)


def test_gain_by_training_is_of_the_same_prompts_before_and_after() -> None:
    runs = [run(seed, held_out=((0.0, 0.5, 0.0), (9.0, 9.0, 0.0), (4.0, 1.0 + seed, 0.0))) for seed in range(3)]
    # 1 + seed, less 0.1 for each of 4 nats, less the 0.5 of the policy that it started as.
    assert gain_by_training(runs, 0.1).mean == pytest.approx(1.1)
    assert before_training(runs, 0.1) == 0.5
    still = gain_by_training([run(seed, held_out=((0.0, 0.5, 0.0),)) for seed in range(3)], 0.1)
    assert (still.mean, still.is_gain, still.is_loss) == (0.0, False, False)


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ({"a": 1.0, "b": 2.0}, "all end above it."),
        ({"a": 1.0, "b": 2.0, "c": -1.0}, "'c' ended below it."),
        ({"a": 1.0, "b, c": 0.0}, "'b, c' cannot be told to end above it."),
        ({"a": 1.0, "b, c": 0.0, "d": 0.0}, "'a' alone can be told to end above it."),
        (
            {"a": -1.0, "b": -1.0, "c": -1.0, "d": 0.0},
            "nobody can be told to end above it; 'a', 'b' and 'c' ended below it.",
        ),
    ],
)
def test_words_say_who_ends_above_the_policy_before_training(ends: dict[str, float], said: str) -> None:
    found = {name: Difference("", end, end - 0.5, end + 0.5, 3, end - 0.5, end + 0.5) for name, end in ends.items()}
    assert learning_words(found) == said


def test_steps_to_a_level_are_those_of_the_smoothed_mean_curve() -> None:
    rising = [run(seed, tuple(float(step + seed) for step in range(1, 21))) for seed in range(3)]
    twice = [run(seed, tuple(2.0 * (step + seed) for step in range(1, 21))) for seed in range(3)]
    # The mean curve is step + 1; its last five steps have mean 19. Twice as steep it has that mean when 2 (s - 2 + 1)
    # does: after 10.5 steps.
    found = steps_ratio(twice, rising)
    assert found.steps == 11 and found.value == pytest.approx(11 / 20)
    assert found.low <= found.value <= found.high
    never = steps_ratio(rising, twice)
    assert never.steps is None and never.value == pytest.approx(21 / 20)


def test_only_seeds_that_both_finished_are_compared_and_lost_ones_have_no_median() -> None:
    lost = Run("x", 0.95, "", 1, "j", "c", "nan")
    assert math.isnan(median([lost], "objective"))
    both = [run(0, held_out=((0.0, 0.0, 0.0), (1.0, 1.0, 0.0))), lost]
    assert gain_at_matched_kl(both, both).seeds == 1


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    whole = replace(run(3, (0.1, -0.2), ((0.0, 1.5, math.nan), (2.0, -1.0, math.nan))), entrant="SCAR, span, 2R")
    lost = Run("ABC", 0.6, "reward_model", 4, "k", "c", "kl_limit")
    path = tmp_path / "runs.csv"
    path.write_text("\n".join([",".join(entry.name for entry in fields(Run)), whole.line(), lost.line()]) + "\n")
    saved = saved_runs(path)
    assert repr(saved["j"]) == repr(whole) and repr(saved["k"]) == repr(lost)
    with path.open(newline="") as file:
        assert {None} not in [set(row) for row in csv.DictReader(file)]


def tiny(**task: object) -> dict[str, list[comparison.Candidate]]:
    config = parse_config({"name": "t", "space": {"methods": ["prefix"]}}, "t")
    return {entrant.name: candidates(entrant, config, tiny_task(**task)) for entrant in ENTRANTS}


def test_every_method_is_tuned_alike_and_only_the_controls_of_scale_pay_more() -> None:
    field = tiny()
    for name, settings in field.items():
        lambdas = [each.arm.shape.gae_lambda for each in settings]
        assert sorted(set(lambdas)) == list(LAMBDAS)
        assert len(settings) == len(LAMBDAS) * (1 if name == HEAD_ONLY else 2)
        assert {each.reward_scale for each in settings} == {2.0 if "2R" in name else 1.0}
        assert [sum(each.arm.shape.active_methods().values()) for each in settings] == pytest.approx(
            [1.0] * len(settings)
        )
    assert {each.arm.critic for each in field[TUNED]} == {"value_head", "reward_model"}


def test_who_cannot_be_served_does_not_take_part() -> None:
    class Program:
        name, abilities, added_tokens, layers = "program", frozenset(), 0, 0

    field = tiny(reward_model=Program())
    assert field["ABC"] == [] and field["attention alone"] == []
    assert field[HEAD_ONLY] == [] and len(field[TUNED]) == len(LAMBDAS) and len(field["SHAP"]) == len(LAMBDAS)


@pytest.mark.parametrize("label", SETTINGS)
def test_a_task_can_be_set_up_and_takes_over_what_is_chosen_elsewhere(label: str) -> None:
    setting = SETTINGS[label]
    assert setting.loaded(*setting.study).name and setting.loaded(*setting.tuning).evaluation.curve_prompts
    if setting.like:
        assert SETTINGS[setting.like].trials and not setting.trials
        assert set(setting.names) <= {SPARSE, WINNER, *(each.name for each in ENTRANTS)}
        # Whose choices are taken over is compared first.
        assert list(SETTINGS).index(setting.like) < list(SETTINGS).index(label)


def test_what_was_chosen_elsewhere_is_closed_as_the_task_asks_for() -> None:
    arm = Arm("R3HF", Shape(weights={"prefix": 1.0}, gae_lambda=0.8))
    like = Comparison("a", parse_config({"name": "a"}, "a"), {"R3HF": Candidate("R3HF", arm, 2.0)}, {}, {}, {})
    config = parse_config({"name": "b", "shape": {"closure": "first"}}, "b")
    (found,) = taken_over(like, ["R3HF"], config).settings.values()
    assert found == Candidate("R3HF", Arm("R3HF", arm.shape.with_changes(closure="first")), 2.0)


@pytest.mark.slow
@pytest.mark.usefixtures("one_process", "without_ax_analyses")
def test_a_comparison_is_made_once_and_then_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (runs, study):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(study, "STUDIES", tmp_path / "studies")
    monkeypatch.setattr(comparison, "ENTRANTS", [each for each in ENTRANTS if each.name in (TUNED, DOUBLED, "R3HF")])
    along = ("evaluation.every_steps=2", "evaluation.curve_prompts=8", "executor.name=local", "search.seeds=[0, 1]")
    # Each token of a response is a pass of the policy.
    along += ("sampling.response_tokens=6",)
    spared = ("evaluation.every_steps=0",)
    setting = Setting("smoke", along, seeds=2, trials=2, tuning=spared, lambdas=(0.8, 1.0))
    console = Console(quiet=True)
    with pytest.raises(Unfinished):
        compare("smoke", setting, 0, "c", console)
    found = compare("smoke", setting, 1, "c", console)
    assert set(found.runs) == {SPARSE, TUNED, DOUBLED, "R3HF", WINNER}
    assert [each.seed for each in found.runs[WINNER]] == [200, 201]
    assert len(saved_runs(runs.runs_file("smoke"))) == 2 * (4 + 4 + 4) + 2 * 5
    assert not any(each.held_out for made in found.tuning.values() for each in made)
    assert all(len(each.held_out) > 1 for made in found.runs.values() for each in made)
    paid = {name: max(each.largest_error for each in made) for name, made in found.runs.items()}
    assert paid[DOUBLED] > 1e-2 and max(paid[name] for name in (SPARSE, TUNED, WINNER)) < 1e-4
    # The sum paid does not touch what is reported: the first batch was sampled before any update.
    assert {each.curve[0] for each in found.runs[DOUBLED]} == {each.curve[0] for each in found.runs[TUNED]}

    def again(*_: object) -> None:
        raise AssertionError("made twice")

    monkeypatch.setattr(runs, "each_done", again)
    monkeypatch.setattr(study, "launch_study", again)
    # What is saved is shown without the models that it was made with.
    monkeypatch.setattr(comparison, "build_assets", again)
    monkeypatch.setattr(comparison, "load_task", again)
    assert repr(compare("smoke", setting, 0, "c", console)) == repr(found)
    assert "papers.smoke.steps_ratio_vs_tuned_sparse" in {claim.name for claim in claims(found)}
    assert found.best_alone() == "R3HF"
    told = shown(found, "a.png").splitlines()
    assert told[:2] == ['<details markdown="1">', "<summary>Smoke: results and curves of all methods</summary>"]
    assert told[-3].endswith("](a.png)") and told[-1] == "</details>"
    assert {line for line in told if line.startswith("|")} <= set(text(found).splitlines())
    assert "no: 2R" in text(found) and "the mix over its best part, R3HF" in text(found)
    assert "chosen on instruction" in shown(replace(found, label="sentiment-smollm2", tuning={}), "a.png")
    pictures.draw(found, tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes()[1:4] == b"PNG"
    untuned = replace(found, label="other", tuning={})
    *_, row, starred = overview_table([found, untuned]).splitlines()
    assert row.startswith("| smoke, 2 seeds | ") and "| R3HF: " in row and "| R3HF*: " in starred
    draw_overview([found, untuned], tmp_path / "all.png")
    assert (tmp_path / "all.png").read_bytes()[1:4] == b"PNG"
