"""Starting from an earlier study, and giving a study more trials. Nothing is trained here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config.schema import StudyConfig
from pipeline.runtime.files import read_json, write_json
from pipeline.study.folder import StudyFolder
from pipeline.study.search_stage import SearchStage
from pipeline.study.warm_start import check_warm_start
from shaping.errors import ConfigError
from tests.support.search_stages import config_of, level, stage_of, tell

pytestmark = pytest.mark.slow


def finish(stage: SearchStage) -> None:
    while (job := stage.ask()) is not None:
        tell(stage, job, level(1.0 + job.index))


def earlier_study(root: Path, **search: Any) -> StudyConfig:
    config = config_of(trials=5, **search)
    finish(stage_of(config, root))
    return config


def test_a_study_of_the_same_question_takes_the_trials_over_as_its_data(tmp_path: Path) -> None:
    earlier_study(tmp_path / "old")
    stage = stage_of(config_of(trials=2, warm_start=str(tmp_path / "old")), tmp_path / "new")
    rows = stage.outer.trials()
    assert [row["arm"] for row in rows] == ["sparse", "prefix", "shapley", "old 3", "old 4"]
    assert {row["origin"] for row in rows} == {"earlier study"} and {row["status"] for row in rows} == {"completed"}
    # Whoever reads the folder finds them, too.
    for index in range(5):
        theirs, ours = (read_json(tmp_path / name / "trials" / str(index) / "result.json") for name in ("old", "new"))
        assert theirs == ours
    # The model proposes at once: nothing is left to fill.
    finish(stage)
    assert stage.outer.trials()[5]["origin"] == "model" and len(stage.outer.trials()) == 7
    assert stage.finished()


def test_taken_over_trials_are_there_after_a_kill_and_the_earlier_folders_removal(tmp_path: Path) -> None:
    earlier_study(tmp_path / "old")
    config = config_of(trials=2, warm_start=str(tmp_path / "old"))
    stage_of(config, tmp_path / "new")
    (tmp_path / "old").rename(tmp_path / "moved")
    stage = stage_of(config, tmp_path / "new")
    assert len(stage.outer.trials()) == 5
    finish(stage)
    assert len(stage.outer.trials()) == 7


def test_a_study_of_another_question_tries_the_best_arms_first(tmp_path: Path) -> None:
    earlier_study(tmp_path / "old")
    config = config_of(trials=6, first_arms=2, warm_start=str(tmp_path / "old"))
    other = config.model_copy(update={"sampling": config.sampling.model_copy(update={"response_tokens": 7})})
    stage = stage_of(other, tmp_path / "new")
    assert stage.outer.trials() == []
    finish(stage)
    rows = stage.outer.trials()
    # Ends rise with the index: the later ones were the better ones; baselines are not tried twice.
    assert [row["arm"] for row in rows][:5] == ["sparse", "prefix", "shapley", "old 4", "old 3"]
    assert [row["origin"] for row in rows][3:5] == ["earlier study"] * 2
    shapes = [read_json(tmp_path / "old" / "trials" / str(index) / "trial.json")["shape"] for index in (4, 3)]
    assert [row["shape"] for row in rows][3:5] == shapes


def test_more_seeds_than_the_earlier_study_had_make_it_another_question(tmp_path: Path) -> None:
    earlier_study(tmp_path / "old")
    stage = stage_of(config_of(seeds=(0, 1, 2), warm_start=str(tmp_path / "old")), tmp_path / "new")
    assert stage.outer.trials() == []


def test_fewer_seeds_take_over_those_that_they_share(tmp_path: Path) -> None:
    earlier_study(tmp_path / "old")
    stage = stage_of(config_of(seeds=(1,), warm_start=str(tmp_path / "old")), tmp_path / "new")
    assert stage.outer._observations.by_seed() == {index: {1: 1.0 + index} for index in range(5)}
    assert read_json(tmp_path / "new" / "trials" / "0" / "result.json")["seeds"] == [1]


def test_a_failed_trial_is_not_taken_over(tmp_path: Path) -> None:
    earlier_study(tmp_path / "old")
    write_json(tmp_path / "old" / "trials" / "3" / "failure.json", {"reason": "certificate"})
    stage = stage_of(config_of(warm_start=str(tmp_path / "old")), tmp_path / "new")
    assert [row["arm"] for row in stage.outer.trials()] == ["sparse", "prefix", "shapley", "old 4"]


@pytest.mark.parametrize("made", [False, True])
def test_an_earlier_study_without_results_is_refused_by_its_field(made: bool, tmp_path: Path) -> None:
    if made:
        StudyFolder(tmp_path / "old").create(config_of())
    with pytest.raises(ConfigError, match=r"search\.warm_start") as refusal:
        check_warm_start(config_of(warm_start=str(tmp_path / "old")))
    assert refusal.value.hint


def test_trials_may_be_raised_but_not_lowered_and_the_folder_remembers(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    folder.create(config_of(trials=5))
    folder.check(config_of(trials=8))
    folder.create(config_of(trials=8))
    assert folder.config().search.trials == 8
    with pytest.raises(ConfigError, match=r"search\.trials = 8, which can only be raised"):
        folder.check(config_of(trials=5))
    with pytest.raises(ConfigError, match=r"search\.seeds"):
        folder.check(config_of(trials=9, seeds=(0, 2)))
