"""One policy, one shape, no study: ``shapetune train``."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from pipeline.commands.train import CHECKPOINT, TrainingRun, chosen_shape, show_result, train
from pipeline.runtime.console import open_console
from pipeline.tasks.sentiment.task import load_sentiment
from pipeline.trainers.ppo.evaluation import evaluate
from pipeline.trainers.ppo.trainer import PPOTrainer
from shaping.errors import ConfigError
from shaping.shape import Shape
from shaping.shape_file import ShapeFile
from tests.support.studies import tiny_config

PREFIX = Shape(weights={"prefix": 1.0}, gae_lambda=0.8)


def run_in(folder: Path, shape: Shape = PREFIX, seed: int = 3) -> TrainingRun:
    config = tiny_config(ppo={"steps": 4, "batch_size": 4, "save_steps": 2}, sampling={"response_tokens": 8})
    return TrainingRun(config, shape, seed, folder)


def quiet() -> Console:
    return open_console(file=io.StringIO(), width=120)


def result_of(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "result.json").read_text())
    values.pop("wall_seconds")
    return values


def test_training_leaves_the_policy_its_logs_and_its_result(tmp_path: Path, tiny_assets: Path) -> None:
    task, run, console = load_sentiment(tiny_assets), run_in(tmp_path / "run"), quiet()
    found = train(run, task, console)
    policy = AutoModelForCausalLM.from_pretrained(run.folder / "policy")
    trainer = PPOTrainer(task, run.shape, run.config.ppo, run.config.sampling, run.seed)
    before = evaluate(trainer, run.config.evaluation.prompts)
    list(trainer.steps())
    for name, weight in trainer.actor.policy.state_dict().items():
        assert torch.equal(weight, policy.state_dict()[name]), name
    assert any(not torch.equal(weight, policy.state_dict()[name]) for name, weight in task.policy.state_dict().items())
    result = result_of(run.folder)
    assert result["evaluation"] == json.loads(json.dumps(found.evaluation.to_dict()))
    assert result["untrained"] == found.untrained and "texts" not in result["untrained"]
    assert found.untrained["objective"] == before.objective  # type: ignore[index]
    assert result["certificate"]["return_preserving"] and len(result["curve"]) == 4
    (events,) = (run.folder / "tensorboard").glob("events*")
    assert events.read_bytes().count(b"train/objective") == 4
    show_result(run, found, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "1.00 prefix, lambda 0.80, seed 3" in shown
    first, second = (next(line for line in shown.splitlines() if when in line) for when in ("before", "after"))
    assert f" {before.objective:z.3f} " in first and f" {found.evaluation.objective:z.3f} " in second
    assert " 0.000 " in first and " 0.000 " not in second


@pytest.mark.parametrize(("steps", "said"), [(2, "1 2"), (12, "2 3 4 5 6 8 9 10 11 12")])
def test_run_says_how_far_it_is_where_no_bar_can_move(steps: int, said: str, tmp_path: Path, tiny_assets: Path) -> None:
    config = tiny_config(
        ppo={"steps": steps, "batch_size": 2}, sampling={"response_tokens": 2}, evaluation={"prompts": 2}
    )
    console = quiet()
    train(TrainingRun(config, PREFIX, 0, tmp_path), load_sentiment(tiny_assets), console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.split(" of ")[0] for line in lines] == [f"step {number}" for number in said.split()]
    assert all("J " in line and "KL " in line for line in lines)


def test_run_that_stopped_goes_on_and_ends_alike(
    tmp_path: Path, tiny_assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load_sentiment(tiny_assets)
    train(run_in(tmp_path / "whole"), task, quiet())
    step = PPOTrainer.step

    def killed(trainer: PPOTrainer, number: int) -> Any:
        if number == 3:
            raise KeyboardInterrupt
        return step(trainer, number)

    stopped = run_in(tmp_path / "stopped")
    with monkeypatch.context() as patched:
        patched.setattr(PPOTrainer, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            train(stopped, task, quiet())
    assert (stopped.folder / CHECKPOINT).exists() and not (stopped.folder / "result.json").exists()
    console = quiet()
    train(stopped, task, console)
    assert "resuming after step 2 of 4" in console.file.getvalue()  # type: ignore[attr-defined]
    assert result_of(stopped.folder) == result_of(tmp_path / "whole")
    assert not (stopped.folder / CHECKPOINT).exists()


@pytest.mark.parametrize("other", [{"seed": 4}, {"shape": Shape()}], ids=str)
def test_folder_of_another_run_is_left_alone(other: dict[str, Any], tmp_path: Path, tiny_assets: Path) -> None:
    task, folder = load_sentiment(tiny_assets), tmp_path / "run"
    train(run_in(folder), task, quiet())
    before = result_of(folder)
    with pytest.raises(ConfigError, match="holds another run"):
        train(run_in(folder, **other), task, quiet())
    assert result_of(folder) == before


def test_shape_is_chosen_by_weights_over_the_configs_own_settings() -> None:
    config = tiny_config(shape={"unit": "token", "gae_lambda": 0.7})
    assert chosen_shape(config, None, (), None).weights == {"sparse": 1.0}
    shape = chosen_shape(config, None, ("prefix=0.7", "shapley=0.3"), None)
    assert (dict(shape.weights), shape.unit, shape.gae_lambda) == ({"prefix": 0.7, "shapley": 0.3}, "token", 0.7)


@pytest.mark.parametrize(
    ("weights", "named"),
    [
        (("prefix",), "'prefix' is not METHOD=NUMBER"),
        (("prefix=much",), "'prefix=much' is not METHOD=NUMBER"),
        (("magic=1",), "'magic' is unknown"),
        (("prefix=0.7",), "sum to 0.7"),
    ],
)
def test_weights_that_mean_nothing_are_refused_by_name(weights: tuple[str, ...], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        chosen_shape(tiny_config(), None, weights, None)


def test_exported_shape_is_used_with_its_own_reward_model_only(tmp_path: Path) -> None:
    file = tmp_path / "shape.json"
    ShapeFile(PREFIX, kl_coef=0.05, reward_model="judge", reward_model_sha256="this one").write(file)
    assert chosen_shape(tiny_config(), file, (), "this one") == PREFIX
    with pytest.raises(ConfigError, match="another reward model"):
        chosen_shape(tiny_config(), file, (), "another one")
    assert chosen_shape(tiny_config(), file, (), "another one", accepted="another one") == PREFIX
    with pytest.raises(ConfigError, match="both given"):
        chosen_shape(tiny_config(), file, ("prefix=1",), None)
