"""What an export writes for a trainer makes the study's shaper again: the same rewards, token by token."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from pipeline.config.load import parse_config
from pipeline.export.export import export_winner
from pipeline.export.formats import REFUSED, TRAINERS
from pipeline.export.reward_model_code import reward_model_code
from pipeline.runtime.files import write_json
from pipeline.study.folder import StudyFolder
from pipeline.tasks.registry import built_task
from pipeline.tasks.sentiment import task as sentiment
from pipeline.trials.arm import Arm
from shaping import ConfigError, Rollouts, Shape, Shaper
from tests.support.models.own_models import CHAT, own_values, text_rows, write_lines, write_models
from tests.support.models.tiny_families import byte_tokenizer
from tests.support.studies import TINY_RECIPE, tiny_config

WINNER = Shape(weights={"shapley": 0.6, "sparse": 0.4}, unit="token", max_units=4, gae_lambda=0.7)
SHAPLEY_SPACE = {"name": "balance", "methods": ["shapley"]}
REWARD_FUNCTION = """
def score(prompts: list[str], responses: list[str]) -> list[float]:
    return [len(set(response)) - len(prompt) / 10 for prompt, response in zip(prompts, responses)]
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    (folder / "tastes.py").write_text(REWARD_FUNCTION)
    write_lines(folder / "prompts.jsonl", text_rows())
    write_lines(folder / "chats.jsonl", [{"messages": CHAT}, {"messages": [{**CHAT[0], "content": "And you?"}]}])
    return folder


def finished(folder: Path, models: Path, **task: Any) -> StudyFolder:
    """Return a study with these models and a winner."""
    values = own_values(models, **task)
    values["space"] = SHAPLEY_SPACE
    study = StudyFolder(folder / "study")
    study.create(parse_config(values, folder))
    write_json(study.winner_file, Arm("7_0", WINNER).to_dict())
    return study


def loaded(path: Path) -> ModuleType:
    name = f"{path.stem}_{abs(hash(str(path)))}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


KINDS: dict[str, dict[str, Any]] = {
    "the policy's tokens": {"model": "reward"},
    "read at the end": {"model": "reward", "read_at_eos": True, "mean": 0.5, "deviation": 2.0},
    "another tokenizer": {"model": "other", "mean": 0.25},
    "encoder": {"model": "encoder", "kind": "encoder", "pair": True, "deviation": 0.5},
    "function": {"function": "tastes.py:score"},
    "scaled function": {"function": "tastes.py:score", "mean": 3.0, "deviation": 2.0},
}


def reward_settings(kind: str, models: Path) -> dict[str, Any]:
    settings = dict(KINDS[kind])
    place = "model" if "model" in settings else "function"
    return {**settings, place: str(models / settings[place])}


@pytest.mark.parametrize("kind", KINDS)
def test_a_trainers_module_rewards_tokens_as_the_study_did(kind: str, models: Path, tmp_path: Path) -> None:
    study = finished(tmp_path, models, reward_model=reward_settings(kind, models))
    written = export_winner(study, tmp_path / "out", "trl")
    assert [path.name for path in written.paths] == ["shape.json", "shapetune_trl.py", "prompts.jsonl"]
    task, _ = built_task(study.config().task)
    assert task is not None
    made = loaded(written.paths[1]).make_shaper(task.tokenizer)
    responses = ["good.", "the music was dull; why", "a great cast"]
    ids = [byte_tokenizer(330)(text, add_special_tokens=False)["input_ids"] for text in responses]
    prompts = [task.train_prompts.ids[row][task.train_prompts.mask[row]].tolist() for row in range(3)]
    rollouts = Rollouts.of_ids(prompts, ids)
    expected = Shaper(WINNER, task.reward_model, task.tokenizer)(rollouts)
    assert float(expected.abs().max()) > 0.01
    torch.testing.assert_close(made(rollouts), expected, atol=1e-5, rtol=0)
    if kind.endswith("function"):
        assert "no weights to recognise it by" in " ".join(written.notes)
    else:
        assert written.notes == ()


@pytest.mark.parametrize(
    "chosen",
    [
        {"name": "sentiment"},
        {"name": "sentiment", "reward_model": "encoder"},
        {"name": "instruction", "policy": "reviews"},
    ],
    ids=lambda chosen: "-".join(chosen.values()),
)
def test_tasks_with_models_of_their_own_go_with_them(chosen: dict[str, str], tmp_path: Path, tiny_assets: Path) -> None:
    study = StudyFolder(tmp_path / "study")
    study.create(tiny_config(task={"recipe": TINY_RECIPE, **chosen}, space=SHAPLEY_SPACE))
    write_json(study.winner_file, Arm("7_0", WINNER).to_dict())
    written = export_winner(study, tmp_path / "out", "trl")
    task, _ = built_task(study.config().task)
    assert task is not None
    prompts, responses = task.train_prompts, ["good, the music was dull and so was the plot", "a great cast"]
    rollouts = Rollouts.of_ids(
        [prompts.ids[row][prompts.mask[row]].tolist() for row in range(2)],
        [task.tokenizer(text, add_special_tokens=False)["input_ids"] for text in responses],
    )
    expected = Shaper(WINNER, task.reward_model, task.tokenizer)(rollouts)
    assert float(expected.abs().max()) > 0.01
    made = loaded(written.paths[1]).make_shaper(task.tokenizer)
    torch.testing.assert_close(made(rollouts), expected, atol=1e-5, rtol=0)
    rows = [json.loads(line) for line in written.paths[2].read_text().splitlines()]
    again = [task.tokenizer(row["prompt"])["input_ids"] for row in rows]
    own = [ids[mask].tolist() for ids, mask in zip(prompts.ids, prompts.mask, strict=True)]
    assert len(again) > 0.9 * len(own) and [ids for ids in own if ids in again] == again


@pytest.mark.parametrize(("form", "made"), [("shape", 0), ("verl", 1)])
def test_models_are_prepared_once_and_their_code_is_made_for_a_trainer_alone(
    form: str, made: int, tmp_path: Path, tiny_assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = StudyFolder(tmp_path / "study")
    study.create(tiny_config(task={"name": "sentiment", "recipe": TINY_RECIPE}, space=SHAPLEY_SPACE))
    write_json(study.winner_file, Arm("7_0", WINNER).to_dict())
    called: list[str] = []
    prepare = sentiment.prepare
    monkeypatch.setattr(sentiment, "prepare", lambda *given: called.append("prepare") or prepare(*given))
    code = "pipeline.export.export.reward_model_code"
    monkeypatch.setattr(code, lambda *given: called.append("code") or reward_model_code(*given))
    written = export_winner(study, tmp_path / "out", form)
    assert called == ["prepare"] + ["code"] * made
    assert len(written.paths) > made


def test_a_module_refuses_another_reward_model_than_the_shape_was_tuned_for(models: Path, tmp_path: Path) -> None:
    study = finished(tmp_path, models)
    written = export_winner(study, tmp_path / "out", "trl")
    text = written.paths[1].read_text().replace(repr(str(models / "reward")), repr(str(models / "other")))
    written.paths[1].write_text(text)
    with pytest.raises(ConfigError, match="reward model"):
        loaded(written.paths[1]).make_shaper(byte_tokenizer(330))


def test_prompts_and_sampling_go_with_it(models: Path, tmp_path: Path) -> None:
    written = export_winner(finished(tmp_path, models), tmp_path / "out", "trl")
    module = loaded(written.paths[1])
    assert module.SETTINGS["max_completion_length"] == 6 and "generation_kwargs" not in module.SETTINGS
    assert module.SETTINGS["beta"] == 0.05 and module.Files().policy == str(models / "policy")
    rows = [json.loads(line) for line in (tmp_path / "out" / "prompts.jsonl").read_text().splitlines()]
    assert rows == text_rows()


def test_what_a_module_cannot_know_of_chats_is_said(models: Path, tmp_path: Path) -> None:
    settings = {"reward_model": reward_settings("another tokenizer", models), "prompts": str(models / "chats.jsonl")}
    written = export_winner(finished(tmp_path, models, held_out_share=0.5, **settings), tmp_path / "out", "trl")
    assert "prompts are chats" in " ".join(written.notes)
    rows = [json.loads(line) for line in (tmp_path / "out" / "prompts.jsonl").read_text().splitlines()]
    assert rows[0] == {"prompt": CHAT}


@pytest.mark.parametrize("trainer", TRAINERS)
def test_names_are_words_and_no_code_in_every_trainers_module(trainer: str, models: Path, tmp_path: Path) -> None:
    hostile = models / 'a"""; raise SystemExit  # \\'
    if not hostile.exists():
        hostile.symlink_to(models / "reward")
    study = finished(tmp_path, models, reward_model={"model": str(hostile)})
    arm = 'x"""\nraise SystemExit # {0}'
    write_json(study.winner_file, Arm(arm, WINNER).to_dict())
    written = export_winner(study, tmp_path / "out", trainer)
    for path in written.paths:
        if path.suffix == ".py":
            tree = ast.parse(path.read_text())
            assert not [node for node in tree.body if isinstance(node, ast.Raise)]
            constants = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
            assert str(hostile) in constants
            assert "make_shaper" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_a_trainer_of_ones_own_leaves_the_reward_model_to_its_owner(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def train(run):\n    return {}\n")
    study = StudyFolder(tmp_path / "study")
    study.create(tiny_config(trainer={"function": str(tmp_path / "mine.py:train")}))
    write_json(study.winner_file, Arm("7_0", WINNER).to_dict())
    written = export_winner(study, tmp_path / "out", "slime")
    assert "write its reward model into make_shaper" in " ".join(written.notes)
    with pytest.raises(NotImplementedError, match=r"mine\.py"):
        loaded(written.paths[1]).make_shaper(byte_tokenizer(330))


@pytest.mark.parametrize("form", ["nemo", "", "Shape", "../shape"])
def test_an_unknown_format_is_refused_before_anything_is_written(form: str, tmp_path: Path) -> None:
    study = StudyFolder(tmp_path / "study")
    study.create(tiny_config())
    with pytest.raises(ConfigError, match="is not known") as caught:
        export_winner(study, tmp_path / "out", form)
    assert caught.value.hint == "choose one of shape, verl, skyrl, trl, slime, ax"
    assert not (tmp_path / "out").exists()


def test_openrlhf_is_refused_with_the_reason_and_the_way_out(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path / "study")
    study.create(tiny_config())
    with pytest.raises(ConfigError, match="takes the first values as the rewards of the responses") as refused:
        export_winner(study, tmp_path / "out", "openrlhf")
    assert "--format verl" in refused.value.hint and set(REFUSED) == {"openrlhf"}
