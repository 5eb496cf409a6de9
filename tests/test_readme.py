"""The README's commands, layout and example are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from pipeline.builtin_configs import builtin_folder
from pipeline.cli import app
from pipeline.tasks.sentiment import load_sentiment

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def fenced(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_every_command_exists_and_every_existing_one_is_shown() -> None:
    shown = set(re.findall(r"^shapetune (\w+)", "\n".join(fenced("sh")), flags=re.MULTILINE))
    existing = {command.callback.__name__ for command in app.registered_commands if command.callback}
    assert shown == existing


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make (\w+)", "\n".join(fenced("sh")), flags=re.MULTILINE)
    assert targets[:2] == ["quickstart", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_the_layout_is_the_repositorys() -> None:
    layout = README.split("## Layout")[1].split("```")[1]
    folders = re.findall(r"^(\w+)/", layout, flags=re.MULTILINE)
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages <= set(folders)
    assert all((ROOT / folder).is_dir() for folder in folders)
    for config in builtin_folder().glob("*.yaml"):
        assert config.name in layout


def test_every_local_link_and_picture_exists() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", README)
    assert targets
    for target in targets:
        assert (ROOT / target).is_file(), target


def test_the_example_runs(tiny_assets: Path) -> None:
    task = load_sentiment(tiny_assets)
    prompts = task.held_out_prompts.select(torch.arange(2))
    names = {
        "folder": tiny_assets / "reward_model",
        "tokenizer": task.tokenizer,
        "prompt_ids": prompts.ids,
        "prompt_mask": prompts.mask,
        "response_ids": torch.randint(5, 300, (2, 7), generator=torch.Generator().manual_seed(0)),
        "response_mask": torch.ones(2, 7, dtype=torch.bool),
    }
    exec("\n".join(fenced("python")), names)  # the example is the thing under test
    rewards = names["token_rewards"]
    assert isinstance(rewards, torch.Tensor) and rewards.shape == (2, 7)
    whole = names["shaper"](
        names["Rollouts"](names["prompt_ids"], names["prompt_mask"], names["response_ids"], names["response_mask"])
    )
    assert rewards.sum(dim=1).tolist() == pytest.approx(whole.scores.tolist(), abs=1e-4)
