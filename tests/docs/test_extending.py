"""The toys of the page on extending work, and the files that pages name are there."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import shapetune
from pipeline.config.load import load_config, parse_config
from pipeline.export.template import Exported
from pipeline.tasks.custom.reward_models import load_function
from pipeline.tasks.registry import TaskKind
from pipeline.trainers.custom import find_trainer, run_custom
from shaping import CausalRewardModel, Rollouts, Shape, ShapeFile, UnitSplitter, score_batch

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text()
PATHS = re.compile(r"`((?:pipeline|shaping|search_spaces|tests|configs|docs|deploy|benchmarks)/[\w./-]*)`")


def part(heading: str, language: str = "python") -> list[str]:
    text = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def names(code: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    exec(code, found)  # the example is the thing under test
    return found


def test_the_credit_method(tiny_assets: Path) -> None:
    method = names(part("A credit method")[0])["METHOD"]
    folder = tiny_assets / "reward_model"
    reward_model, tokenizer = CausalRewardModel.from_pretrained(folder), CausalRewardModel.tokenizer(folder)
    rollouts = Rollouts.of_texts(tokenizer, ["<s> the film"] * 2, [" is dull.", " is moving."])
    batch = score_batch(rollouts, reward_model, UnitSplitter(tokenizer), Shape())
    credit = method.credit(batch).values
    assert credit[:, 0].tolist() == pytest.approx(batch.scores.tolist())
    assert not credit[:, 1:].any()


def test_the_search_space(tmp_path: Path) -> None:
    (tmp_path / "spaces.py").write_text(part("A search space")[0])
    (tmp_path / "study.yaml").write_text("name: toy\n" + part("A search space", "yaml")[0])
    space = load_config(tmp_path / "study.yaml").make_space()
    assert [parameter.name for parameter in space.parameters()] == ["gae_lambda"]
    assert dict(space.decode({"gae_lambda": 0.7}).shape.weights)["prefix"] == 1.0


def test_the_task(tmp_path: Path) -> None:
    function, kind, _ = part("A task")
    (tmp_path / "rewards.py").write_text(function)
    assert load_function(f"{tmp_path}/rewards.py:brevity", "x")(["a"], ["one two"]) == [0.96]
    assert parse_config({"name": "toy", **yaml.safe_load(part("A task", "yaml")[0])}, "x").task.name == "prompts"
    wanted = {name for name in vars(TaskKind) if not name.startswith("_")}
    assert wanted <= {name for name, value in names(kind).items() if callable(value)}


def test_the_trainer(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(part("A trainer")[0])
    trainer = find_trainer(f"{tmp_path}/toy.py:train")
    shape, config = Shape(weights={"prefix": 1.0}), {"ppo": {"steps": 4}}
    *steps, result = run_custom(trainer, "toy", shape, 0, tmp_path, config)
    assert len(steps) == 4 and isinstance(result, dict)
    assert result["evaluation"]["reward"] == pytest.approx(0.75, abs=0.1)


def test_the_export_format() -> None:
    snippet = names(part("An export format")[0])["snippet"]
    content = ShapeFile(Shape(weights={"prefix": 0.75, "sparse": 0.25}), 0.05)
    told = snippet(Exported(content, SimpleNamespace()))
    assert told == {"weights.txt": "prefix 0.75\nsparse 0.25\n"}


@pytest.mark.parametrize(
    "page", sorted([*(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md"]), ids=lambda p: p.name
)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    # Not those that a study or a command writes.
    named = {path.rstrip("/") for path in PATHS.findall(page.read_text()) if "NAME" not in path}
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_the_architecture_names_every_room() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rooms = [path.parent for path in (ROOT / "pipeline").glob("*/__init__.py") if path.parent.name != "trainers"]
    rooms += [path.parent for path in (ROOT / "pipeline" / "trainers").glob("*/__init__.py")]
    assert rooms and [room.name for room in rooms if f"`{room.relative_to(ROOT)}`" not in page] == []


def test_the_python_api_is_the_packages_own() -> None:
    page = (ROOT / "docs" / "python-api.md").read_text()
    public = set(re.findall(r"`shapetune\.(\w+)", page))
    assert public == set(shapetune.__all__) - {"StudyConfig"}
    members = {name for name in vars(shapetune.Study) if not name.startswith("_")}
    fields = {"folder", "storage", "name"}
    assert set(re.findall(r"`(?:shapetune\.S|s)tudy\.(\w+)", page)) == members - fields
