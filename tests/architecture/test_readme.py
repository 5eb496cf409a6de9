"""The README's commands, layout and example are those of the code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from pipeline.cli import app
from pipeline.config.load import builtin_folder
from pipeline.export.export import REFUSED, TRAINERS
from pipeline.tasks.sentiment.task import load_sentiment
from shaping import METHODS, Shape, ShapeFile

ROOT = Path(__file__).parents[2]
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


def test_the_shaper_example_runs(tiny_assets: Path, tmp_path: Path) -> None:
    task = load_sentiment(tiny_assets)
    prompts = task.held_out_prompts.select(torch.arange(2))
    names = {
        "folder": tiny_assets / "reward_model",
        "tokenizer": task.tokenizer,
        "prompt_ids": prompts.ids,
        "prompt_mask": prompts.mask,
        "response_ids": torch.randint(5, 300, (2, 7), generator=torch.Generator().manual_seed(0)),
        "response_mask": torch.ones(2, 7, dtype=torch.bool),
        "policy_mask": torch.tensor([[True, True, False, False, True, True, True]] * 2),
        "my_scores": torch.tensor([0.5, -2.0]),
        "shape_file": tmp_path / "shape.json",
    }
    shape = Shape(weights={"prefix": 0.7, "shapley": 0.3})
    ShapeFile(shape, 0.05, reward_model_sha256=task.reward_identity).write(tmp_path / "shape.json")
    example = fenced("python")[0]
    assert len(example.splitlines()) <= 15
    exec(example, names)  # the example is the thing under test
    rewards = names["token_rewards"]
    assert isinstance(rewards, torch.Tensor) and rewards.shape == (2, 7)
    assert rewards.sum(dim=1).tolist() == pytest.approx([0.5, -2.0], abs=1e-4)
    assert not rewards[:, 2:4].any() and rewards[:, 0].all()


def test_the_example_of_every_method_runs(tiny_assets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = fenced("python")[1]
    assert len(example.splitlines()) <= 15
    exec(example, {"folder": tiny_assets / "reward_model"})
    heading, *rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == list(METHODS)
    tokens = load_sentiment(tiny_assets).tokenizer(" is moving, but its end is dull.", add_special_tokens=False)
    assert all(len(row.split()) == 1 + len(tokens["input_ids"]) for row in rows)
    score = float(heading.split()[1])
    sums = {row.split()[0]: sum(map(float, row.split()[1:])) for row in rows}
    for name in ("sparse", "uniform", "attention"):
        assert sums[name] == pytest.approx(score, abs=0.1)


def test_the_table_of_trainers_is_complete() -> None:
    table = README.split("| `--format` | Trainer |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)`", table, flags=re.MULTILINE) == [*TRAINERS, *REFUSED]
    pinned = (ROOT / "constraints.txt").read_text()
    for name, text in (("trl", pinned), *((name, requirements(name)) for name in ("verl", "skyrl"))):
        (version,) = re.findall(rf"^{name}==([\d.]+)", text, flags=re.MULTILINE)
        assert re.search(rf"{name} {re.escape(version)}[.:]", table, flags=re.IGNORECASE), (name, version)


def requirements(trainer: str) -> str:
    return (ROOT / "tests" / "adapters" / "requirements" / f"{trainer}.txt").read_text()


def test_the_table_of_credit_methods_is_complete() -> None:
    table = README.split("| Credit method |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) == set(METHODS)


def test_every_measured_row_is_the_benchmarks_own() -> None:
    blocks = re.findall(r"<!-- measured: (\w+) -->\n(.*?)<!-- end -->", README, flags=re.DOTALL)
    assert blocks
    for name, block in blocks:
        results = ROOT / "benchmarks" / "results"
        measured = (results / f"{name}.md").read_text().splitlines()
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert rows and all(row in measured for row in rows)
        record = json.loads((results / f"{name}.json").read_text())
        assert f"`{record['command']}`" in block and record["date"] in block
        assert {"command", "commit", "date", "machine", "claims"} <= set(record)
        for claim in record["claims"]:
            assert set(claim) == {"name", "value", "low", "high", "n"}
            assert claim["low"] <= claim["value"] <= claim["high"]
