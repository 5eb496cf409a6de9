"""A study that searches its trainer's settings, too: what runs, what is confirmed, and what its export carries."""

from __future__ import annotations

import io
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from trl import GRPOConfig

from pipeline.commands.train import with_settings_of
from pipeline.export.export import export_winner
from pipeline.export.trainer_settings import NAMES, searched_overrides, unset_notes
from pipeline.report.load import load_report_data
from pipeline.report.page import render
from pipeline.study.examined import examined
from pipeline.study.folder import StudyFolder
from pipeline.study.replay import replayed
from pipeline.study.status import read_status, tried_in_words
from pipeline.study.verdict import CREDIT, arms_beside_winner, judge
from pipeline.trials.arm import WINNER, Arm
from pipeline.trials.results import RunResult
from search_spaces import is_without_credit
from shaping.certificate import Certificate
from shaping.errors import ConfigError
from shaping.shape import Shape
from shaping.shape_file import SCHEMA_WITH_TRAINER, ShapeFile
from tests.support.studies import tiny_config

SEARCHED = {
    "ppo.critic": ["value_head", "network", "reward_model"],
    "ppo.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "ppo.kl_coef": {"low": 0.0, "high": 0.2},
}
SPACE = {"methods": ["prefix", "uniform"], "gae_lambda": [0.0, 1.0], "trainer": SEARCHED}
CONFIG = tiny_config(
    name="learner",
    space=SPACE,
    ppo={"steps": 2, "batch_size": 4, "learning_rate": 1e-3},
    search={"trials": 9, "sobol_trials": 1, "seeds": [0]},
)


@pytest.fixture(scope="module")
def study(tiny_assets: Path, tmp_path_factory: pytest.TempPathFactory, without_ax_analyses: None) -> StudyFolder:
    from pipeline.commands.launch import launch_study

    studies = tmp_path_factory.mktemp("studies")
    return launch_study(examined(CONFIG, studies), Console(file=io.StringIO(), width=200))


@pytest.mark.slow
def test_every_trial_trains_as_it_chose_and_is_judged_at_one_price(study: StudyFolder) -> None:
    chosen = set()
    for index in range(CONFIG.search.trials):
        result = json.loads((study.trial_folder(index) / "result.json").read_text())
        trainer, evaluation = result["arm"]["trainer"], result["runs"][0]["evaluation"]
        assert set(trainer) == set(SEARCHED)
        chosen.add((trainer["ppo.critic"], trainer["ppo.learning_rate"], trainer["ppo.kl_coef"]))
        assert evaluation["objective"] == pytest.approx(
            evaluation["reward"] - CONFIG.ppo.kl_coef * evaluation["kl_nats"], abs=1e-6
        )
    assert len(chosen) >= 5
    names = [row["arm"] for row in read_status(study)]
    assert names[:6] == [
        *("sparse", "sparse, lambda 1", "sparse, network critic", "sparse, reward-model critic", "prefix", "uniform")
    ]


@pytest.mark.slow
def test_two_critics_of_one_shape_and_seed_end_elsewhere(study: StudyFolder) -> None:
    found = [json.loads((study.trial_folder(index) / "seed-0.json").read_text()) for index in range(4)]
    # The first batch was sampled before anything was learned; what is learned from it differs.
    assert len({run["curve"][0]["reward"] for run in found}) == 1
    assert len({run["curve"][1]["kl_nats"] for run in found}) == 4


@pytest.mark.slow
def test_the_rivals_that_were_found_are_confirmed_beside_the_winner(study: StudyFolder) -> None:
    kept = json.loads(study.verdict_file.read_text())
    winner = study.winner()
    assert winner is not None and set(winner.trainer) == set(SEARCHED)
    confirmed = {path.name.rpartition("-")[0] for path in study.confirm.iterdir()}
    assert {WINNER, "sparse"} <= confirmed and len(confirmed) >= 3
    rivals = [difference["rival"] for difference in kept["differences"]]
    assert rivals[0] == "sparse" and kept["tuned_rival"] in rivals
    assert study.bounds_file.exists()
    assert not is_without_credit(winner.shape) or any(rival.startswith(CREDIT) for rival in rivals)


@pytest.mark.slow
def test_table_replay_and_report_show_the_settings(study: StudyFolder) -> None:
    rows = read_status(study)
    assert rows[2]["trainer"]["ppo.critic"] == "network"
    assert "critic network" in tried_in_words(rows[2])
    replay = replayed(study)
    assert replay.tried[2].trainer["ppo.critic"] == "network"
    page = render(load_report_data(study, modelled=True))
    assert "critic is a" in page or "critic starts as the reward model" in page
    assert "ppo.learning_rate" in page


@pytest.mark.slow
def test_a_launch_again_finds_the_same(study: StudyFolder) -> None:
    from pipeline.commands.launch import launch_study

    before = {path: path.read_bytes() for path in study.root.rglob("result.json")}
    winner = study.winner_file.read_bytes()
    again = launch_study(examined(CONFIG, study.root.parent), Console(file=io.StringIO()))
    assert {path: path.read_bytes() for path in again.root.rglob("result.json")} == before
    assert again.winner_file.read_bytes() == winner
    with pytest.raises(ConfigError, match=r"space\.trainer"):
        examined(
            tiny_config(**{**CONFIG.model_dump(mode="json"), "space": {**SPACE, "trainer": {}}}), study.root.parent
        )


@pytest.mark.slow
def test_the_exported_shape_carries_the_settings_and_training_takes_them(study: StudyFolder, tmp_path: Path) -> None:
    written = export_winner(study, tmp_path, "trl")
    content = ShapeFile.read(written.paths[0])
    winner = study.winner()
    assert winner is not None and content.trainer == dict(winner.trainer)
    assert json.loads(written.paths[0].read_text())["schema"] == SCHEMA_WITH_TRAINER
    assert content.critic == winner.critic and content.kl_coef == winner.trainer["ppo.kl_coef"]
    assert f'"learning_rate": {winner.trainer["ppo.learning_rate"]!r}' in written.paths[1].read_text()
    said = io.StringIO()
    config = with_settings_of(tiny_config(), written.paths[0], ("ppo.kl_coef=0.3",), Console(file=said, width=200))
    assert config.ppo.learning_rate == winner.trainer["ppo.learning_rate"] and config.ppo.critic == winner.critic
    assert config.ppo.kl_coef == tiny_config().ppo.kl_coef and "as the shape was found" in said.getvalue()


def test_each_trainer_is_set_or_says_what_it_lacks() -> None:
    trainer = {"ppo.learning_rate": 4e-4, "ppo.cliprange": 0.1, "ppo.vf_coef": 1.0, "ppo.critic": "network"}
    content = ShapeFile(Shape(), 0.05, trainer=trainer)
    assert searched_overrides("verl", content) == {
        "actor_rollout_ref.actor.optim.lr": 4e-4,
        "actor_rollout_ref.actor.clip_ratio": 0.1,
    }
    for form in NAMES:
        [note] = unset_notes(form, content)
        assert note.startswith("ppo.vf_coef = 1.0") and form in note


def test_trls_names_are_those_of_its_own_config() -> None:
    known = {each.name for each in fields(GRPOConfig)}
    assert {name for names in NAMES["trl"].values() for name in names} <= known


def test_a_shape_file_with_settings_has_a_version_that_earlier_readers_refuse(tmp_path: Path) -> None:
    path = tmp_path / "shape.json"
    ShapeFile(Shape(), 0.05, trainer={"ppo.critic": "network"}).write(path)
    assert ShapeFile.read(path).trainer == {"ppo.critic": "network"}
    ShapeFile(Shape(), 0.05).write(path)
    assert json.loads(path.read_text())["schema"] == "shapetune/shape/2"


def run(seed: int, objective: float) -> RunResult:
    point = {"objective": objective, "reward": objective, "kl_nats": 0.0}
    return RunResult(seed, (point,) * 8, {**point, "texts": []}, Certificate.empty(Shape()))


def arm(name: str, gae_lambda: float = 0.9, **weights: float) -> Arm:
    return Arm(name, Shape(weights=weights, gae_lambda=gae_lambda), {"ppo.critic": "network"})


RANKED = [
    arm("7_0", prefix=1.0),
    arm("sparse, lambda 1", 1.0, sparse=1.0),
    arm("8_0", 0.3, sparse=1.0),
    arm("9_0", uniform=0.5, sparse=0.5),
    arm("sparse", sparse=1.0),
]


def test_the_best_of_each_family_is_a_rival() -> None:
    names = [each.name for each in arms_beside_winner(RANKED[0], Shape(), RANKED)]
    assert names == [WINNER, "sparse", "sparse, lambda 1", "uniform, 9_0"]
    found = arms_beside_winner(RANKED[0], Shape(), RANKED)
    assert found[0].candidate == RANKED[0].candidate and found[2] == RANKED[1]
    assert found[1] == Arm("sparse", Shape())


def test_a_winner_without_credit_meets_the_best_with_some() -> None:
    ranked = [RANKED[2], RANKED[1], RANKED[0], RANKED[3]]
    names = [each.name for each in arms_beside_winner(RANKED[2], Shape(), ranked)]
    assert names == [WINNER, "sparse", "sparse, lambda 1", "uniform, 9_0", "with credit, 7_0"]


def verdict_of(**means: float) -> Any:
    names = {"tuned": "sparse, lambda 1", "credit": "with credit, 7_0", "place": "place 2, 3_0"}
    runs = {
        names.get(name, name): [run(seed, mean + 0.01 * (seed % 3)) for seed in range(4)]
        for name, mean in means.items()
    }
    return judge("7_0", runs, found_rivals=True, has_credit="credit" not in means)


def test_the_best_rival_is_whoever_ends_highest_on_fresh_seeds() -> None:
    verdict = verdict_of(winner=1.0, sparse=0.2, tuned=0.4, uniform=0.6, place=2.0)
    assert verdict.tuned_rival == "uniform"
    assert [each.rival for each in verdict.differences] == ["sparse", "uniform", "sparse, lambda 1"]
    assert verdict.text[0] == "7_0 beats every baseline in J on fresh seeds."


def test_a_winner_that_needs_no_credit_is_said_to() -> None:
    verdict = verdict_of(winner=1.0, sparse=0.2, tuned=0.4, credit=0.9)
    assert verdict.text[1].startswith("7_0 needs no credit")
    assert [each.rival for each in verdict.differences][-1] == "with credit, 7_0"
    assert verdict.tuned_rival == "sparse, lambda 1"
