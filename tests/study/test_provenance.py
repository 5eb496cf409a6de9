"""The user's own prompts, models and code: a study or a run does not go on with others under the same names."""

from __future__ import annotations

import io
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from pipeline.commands.launch import launch_study
from pipeline.commands.train import TrainingRun, _claim, train
from pipeline.config.load import load_config
from pipeline.config.schema import StudyConfig
from pipeline.report.load import load_report_data
from pipeline.report.page import render
from pipeline.runtime.files import read_json
from pipeline.study.examined import examined
from pipeline.study.folder import StudyFolder
from pipeline.study.provenance import check_user_files, note_launch, noted, user_files
from pipeline.study.warm_start import read_warm_start
from pipeline.tasks.custom.task import load
from pipeline.trials.arm import Arm
from pipeline.trials.records import TrialFiles
from pipeline.trials.results import RunResult, TrialResult
from shaping.certificate import Certificate
from shaping.errors import ConfigError
from shaping.shape import Shape
from tests.support.models.own_models import own_values, text_rows, write_config, write_lines, write_models

SPACE = "from search_spaces.credit_mix import CreditMix\n\n\ndef mine(**options):\n    return CreditMix(**options)\n"


def written(folder: Path, **task: Any) -> Path:
    """Write a config, its prompts and what stands for its models into the folder; returns the config's file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("policy", "reward"):
        (folder / name).mkdir()
        save_file({"weight": torch.zeros(3)}, folder / name / "model.safetensors")
        (folder / name / "config.json").write_text("{}")
    write_lines(folder / "prompts.jsonl", text_rows())
    (folder / "rewards.py").write_text("def score(prompts, responses):\n    return [1.0 for _ in responses]\n")
    (folder / "space.py").write_text(SPACE)
    values = own_values(folder, **task)
    return write_config(folder, {**values, "space": {"name": f"{folder / 'space.py'}:mine", "methods": ["prefix"]}})


def launched(tmp_path: Path, **task: Any) -> tuple[Path, StudyFolder, StudyConfig]:
    """Return a config's file, and the folder that a launch of it left."""
    file = written(tmp_path / "mine", **task)
    config, folder = load_config(file), StudyFolder(tmp_path / "studies" / "own")
    folder.create(config)
    note_launch(folder, user_files(config))
    return file, folder, config


def test_what_a_config_names_is_known_by_what_is_in_it(tmp_path: Path) -> None:
    config = load_config(written(tmp_path))
    found = user_files(config)
    assert set(found) == {"task.prompts", "task.policy.model", "task.reward_model.model", "space.name"}
    assert all(len(digest) == 64 for digest in found.values())
    prompts, model = ((tmp_path / name).read_bytes() for name in ("prompts.jsonl", "policy/model.safetensors"))
    assert found["task.prompts"] == sha256(prompts).hexdigest()
    listed = f"{sha256(b'{}').hexdigest()}  config.json\n{sha256(model).hexdigest()}  model.safetensors\n"
    assert found["task.policy.model"] == sha256(listed.encode()).hexdigest()
    # The same models.
    assert found["task.policy.model"] == found["task.reward_model.model"]
    save_file({"weight": torch.ones(3)}, tmp_path / "policy" / "model.safetensors")
    (tmp_path / "reward" / "README.md").write_text("notes decide nothing")
    (tmp_path / "reward" / "checkpoint-5").mkdir()
    now = user_files(config)
    assert {field for field in found if now[field] != found[field]} == {"task.policy.model"}


def test_of_a_folder_with_a_gguf_file_only_that_file_counts(tmp_path: Path) -> None:
    (tmp_path / "small.gguf").write_bytes(b"weights")
    config = load_config(written(tmp_path / "mine", policy={"model": str(tmp_path / "small.gguf")}))
    before = user_files(config)
    (tmp_path / "another.json").write_text("{}")
    assert user_files(config) == before
    (tmp_path / "small.gguf").write_bytes(b"others")
    assert user_files(config)["task.policy.model"] != before["task.policy.model"]


def test_names_on_a_hub_packages_and_what_is_missing_are_left_to_whoever_loads_them(tmp_path: Path) -> None:
    reward = {"function": "package.module:score"}
    file = written(tmp_path, policy={"model": "org/model"}, reward_model=reward, prompts=str(tmp_path / "none.jsonl"))
    assert set(user_files(load_config(file))) == {"space.name"}
    assert user_files(load_config(file, ("space.name=balance",))) == {}


def test_a_trainer_of_ones_own_leaves_the_task_alone(tmp_path: Path) -> None:
    trainer = f"trainer={{function: '{tmp_path / 'rewards.py'}:score'}}"
    assert set(user_files(load_config(written(tmp_path), (trainer,)))) == {"space.name", "trainer.function"}


@pytest.mark.parametrize("name", ["prompts.jsonl", "policy/model.safetensors", "reward/config.json"])
def test_a_study_whose_data_changed_is_refused_before_anything_is_loaded(name: str, tmp_path: Path) -> None:
    file, folder, _ = launched(tmp_path)
    before = {path: path.read_bytes() for path in folder.root.rglob("*") if path.is_file()}
    changed = file.parent / name
    changed.write_bytes(changed.read_bytes() + b" ")
    with pytest.raises(ConfigError, match=r"^task\.(prompts|\w+\.model): what it names has changed since") as refused:
        launch_study(examined(load_config(file), folder.root.parent), Console(file=io.StringIO()))
    assert "change name" in refused.value.hint
    assert {path: path.read_bytes() for path in folder.root.rglob("*") if path.is_file()} == before


def test_changed_code_is_said_at_the_launch_and_in_the_report(tmp_path: Path) -> None:
    file, folder, config = launched(tmp_path, reward_model={"function": f"{tmp_path / 'mine' / 'rewards.py'}:score"})
    assert check_user_files(folder, user_files(config)) == []
    (file.parent / "rewards.py").write_text("def score(prompts, responses):\n    return [2.0 for _ in responses]\n")
    now = user_files(config)
    assert check_user_files(folder, now) == ["task.reward_model.function"]
    said = io.StringIO()
    # The policy that it goes on to load is none.
    with pytest.raises(ConfigError, match=r"task\.policy"):
        launch_study(examined(load_config(file), folder.root.parent), Console(file=said, width=200))
    assert "task.reward_model.function: its code has changed since the last launch" in said.getvalue()
    note_launch(folder, now)
    page = render(load_report_data(folder))
    assert "the code changed behind task.reward_model.function" in page
    assert now["task.prompts"][:12] in page and str(tmp_path) not in page


def test_a_study_of_a_version_that_did_not_look_goes_on(tmp_path: Path) -> None:
    file, folder, config = launched(tmp_path)
    line = json.loads(folder.provenance_file.read_text())
    del line["files"]
    folder.provenance_file.write_text(json.dumps(line) + "\n")
    write_lines(file.parent / "prompts.jsonl", text_rows(9))
    assert noted(folder) == {} and check_user_files(folder, user_files(config)) == []
    assert "Own files" not in render(load_report_data(folder))


def test_trials_of_a_study_of_other_prompts_are_no_data(tmp_path: Path) -> None:
    file, folder, _ = launched(tmp_path)
    trial = folder.trial_folder(0)
    trial.mkdir(parents=True)
    run = RunResult(0, ({"objective": 1.0},), {"objective": 1.0}, Certificate.empty(Shape()))
    TrialFiles(trial).write_result(Arm("sparse", Shape()), TrialResult.of([run]))
    config = load_config(file, ("name=next", f"search.warm_start={folder.root}"))
    for text, taken in ((text_rows(), 1), (text_rows(9), 0)):
        write_lines(file.parent / "prompts.jsonl", text)
        new = StudyFolder(tmp_path / f"next-{taken}")
        new.create(config)
        assert len(read_warm_start(config, new).trials) == taken


def test_a_run_does_not_go_on_with_other_prompts(tmp_path: Path) -> None:
    write_models(tmp_path)
    write_lines(tmp_path / "prompts.jsonl", text_rows())
    config = load_config(write_config(tmp_path, own_values(tmp_path)))
    run = TrainingRun(config, Shape(), 0, tmp_path / "run")
    task = load(config.task, None)
    train(run, task, Console(file=io.StringIO()))
    assert set(read_json(run.folder / "result.json")["files"]) == set(user_files(config))
    _claim(TrainingRun(config, Shape(), 0, run.folder))
    write_lines(tmp_path / "prompts.jsonl", text_rows(9))
    with pytest.raises(ConfigError, match=r"what differs: contents of task\.prompts\n"):
        _claim(TrainingRun(config, Shape(), 0, run.folder))
    with pytest.raises(ConfigError, match=r"what differs: contents of task\.prompts, seed\n"):
        _claim(TrainingRun(config, Shape(), 1, run.folder))
