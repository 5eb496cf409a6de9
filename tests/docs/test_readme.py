"""The README's size, commands, layout and example are right, and so are the tables of the pages beside it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import torch

from pipeline.cli import app
from pipeline.config.load import builtin_folder
from pipeline.export.formats import REFUSED, TRAINERS
from pipeline.tasks.sentiment.task import load_sentiment
from shaping import METHODS, Shape, ShapeFile

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()
CREDIT_METHODS = (DOCS / "credit-methods.md").read_text()


def fenced(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_it_is_short() -> None:
    assert len(README.encode()) <= 10_000
    assert len(README.splitlines()) <= 180


def test_every_command_exists_and_every_existing_one_is_shown() -> None:
    shown = set(re.findall(r"^shapetune (\w+)", "\n".join(fenced("sh")), flags=re.MULTILINE))
    existing = {command.callback.__name__ for command in app.registered_commands if command.callback}
    assert shown == existing


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/quickstart.md"])
def test_every_make_target_exists(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make ([\w-]+)", "\n".join(fenced("sh", (ROOT / page).read_text())), flags=re.MULTILINE)
    assert targets[:2] == ["quickstart", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_the_layout_is_the_repositorys() -> None:
    layout = README.split("## Layout")[1].split("```")[1]
    folders = re.findall(r"^(\w+)/", layout, flags=re.MULTILINE)
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    tracked = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    tops = {path.partition("/")[0] for path in tracked if "/" in path and not path.startswith(".")}
    assert set(folders) == tops


def test_every_built_in_config_has_a_row() -> None:
    tasks = (DOCS / "tasks.md").read_text()
    named = re.findall(r"^\| \[`([\w.]+)`\]", tasks, flags=re.MULTILINE)
    assert sorted(named) == sorted(config.name for config in builtin_folder().glob("*.yaml"))


def test_every_page_is_in_the_index() -> None:
    pages = {path.name for path in DOCS.glob("*.md")}
    linked = set(re.findall(r"\]\(docs/([\w-]+\.md)", README))
    linked |= set(re.findall(r"\]\(([\w-]+\.md)", (DOCS / "findings.md").read_text()))
    assert pages - linked == {"index.md"}


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
    (example,) = fenced("python")
    assert example in CREDIT_METHODS
    assert len(example.splitlines()) <= 15
    exec(example, names)  # the example is the thing under test
    rewards = names["token_rewards"]
    assert isinstance(rewards, torch.Tensor) and rewards.shape == (2, 7)
    assert rewards.sum(dim=1).tolist() == pytest.approx([0.5, -2.0], abs=1e-4)
    assert not rewards[:, 2:4].any() and rewards[:, 0].all()


def test_the_example_of_every_method_runs(tiny_assets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = fenced("python", CREDIT_METHODS)[0]
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


@pytest.mark.parametrize("page", ["README.md", "docs/production.md"])
def test_the_table_of_trainers_is_complete(page: str) -> None:
    table = (ROOT / page).read_text().split("| `--format` | Trainer |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)`", table, flags=re.MULTILINE) == [*TRAINERS, *REFUSED]
    pinned = (ROOT / "constraints.txt").read_text()
    for name, text in (("trl", pinned), *((name, requirements(name)) for name in ("verl", "skyrl"))):
        (version,) = re.findall(rf"^{name}==([\d.]+)", text, flags=re.MULTILINE)
        assert re.search(rf"{name} {re.escape(version)}[.:]", table, flags=re.IGNORECASE), (name, version)


def requirements(trainer: str) -> str:
    return (ROOT / "tests" / "adapters" / "requirements" / f"{trainer}.txt").read_text()


def test_the_table_of_credit_methods_is_complete() -> None:
    table = CREDIT_METHODS.split("| Credit method |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) == set(METHODS)


def test_every_measured_row_is_the_benchmarks_own() -> None:
    page = (DOCS / "benchmarks.md").read_text()
    blocks = re.findall(r"<!-- measured: (\w+) -->\n(.*?)<!-- end -->", page, flags=re.DOTALL)
    assert {"chaos", "credit", "early_stopping", "outer", "papers", "ppo", "proposals", "scale", "shapes"} == {
        name for name, _ in blocks
    }
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
