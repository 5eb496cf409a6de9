"""A newcomer adds one thing of each kind, in a copy of the code, by the steps of the page on extending, and uses it."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.support.models.own_models import own_values, text_rows, write_config, write_lines, write_models
from tests.support.servers.commands import Command

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text()
PACKAGES = ("shaping", "search_spaces", "pipeline", "configs")


def part(heading: str, language: str = "python") -> list[str]:
    text = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


class Copy:
    """A copy of the code that a newcomer changes."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "code"
        for package in PACKAGES:
            shutil.copytree(ROOT / package, self.root / package, ignore=shutil.ignore_patterns("__pycache__"))

    def write(self, path: str, text: str) -> None:
        assert not (self.root / path).exists()
        (self.root / path).write_text(text)

    def edit(self, path: str, before: str, after: str) -> None:
        file = self.root / path
        text = file.read_text()
        assert text.count(before) == 1, (path, before)
        file.write_text(text.replace(before, after))

    def shapetune(self, *arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
        command = Command(*arguments, cwd=self.root, environment=environment)
        assert command.wait() == 0, command.printed()
        return command.output()


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def result(folder: Path) -> dict[str, object]:
    values: dict[str, object] = json.loads((folder / "result.json").read_text())
    return values


@pytest.mark.slow
def test_a_credit_method_is_added_in_three_places_and_trained_with(copy: Copy, tmp_path: Path) -> None:
    copy.write("shaping/credit/first.py", part("A credit method")[0])
    copy.edit("shaping/credit/__init__.py", "import attention, gradient,", "import attention, first, gradient,")
    copy.edit("shaping/credit/__init__.py", "kernel_shap, lime)\n", "kernel_shap, lime, first)\n")
    copy.edit("shaping/method_names.py", '    "lime",\n)', '    "lime",\n    "first",\n)')
    copy.edit("shaping/method_names.py", '"random", "attention"}', '"random", "attention", "first"}')
    copy.edit(
        "pipeline/report/words.py", "METHOD_WORDS = {\n", 'METHOD_WORDS = {\n    "first": "all on the first token",\n'
    )
    write_models(tmp_path)
    write_lines(tmp_path / "prompts.jsonl", text_rows())
    config = write_config(tmp_path, own_values(tmp_path))
    copy.shapetune("train", str(config), "--weight", "first=1", "-o", str(tmp_path / "run"))
    found = result(tmp_path / "run")
    assert found["certificate"]["causal"] == {"first": False}  # type: ignore[index]
    assert found["certificate"]["return_preserving"]  # type: ignore[index]


@pytest.mark.slow
def test_a_task_is_added_in_two_places_and_trained_on(copy: Copy, tmp_path: Path) -> None:
    _, module, settings = part("A task")
    copy.write("pipeline/tasks/letters.py", module)
    copy.edit("pipeline/tasks/registry.py", "MODULES = {\n", 'MODULES = {\n    "letters": "pipeline.tasks.letters",\n')
    path = "pipeline/tasks/settings.py"
    copy.edit(
        path, "TaskSettings = Annotated[\n    ", f"{settings}\n\nTaskSettings = Annotated[\n    LettersSettings | "
    )
    copy.edit(path, 'TASK_NAMES = ("sentiment",', 'TASK_NAMES = ("letters", "sentiment",')
    config = tmp_path / "letters.yaml"
    ppo = {"steps": 12, "batch_size": 32, "learning_rate": 2e-2, "device": "cpu"}
    shape, sampling = {"unit": "token", "max_units": 8}, {"response_tokens": 8}
    values = {"name": "letters", "task": {"name": "letters"}, "ppo": ppo, "sampling": sampling, "shape": shape}
    config.write_text(yaml.safe_dump(values))
    copy.shapetune("train", str(config), "--weight", "shapley=1", "-o", str(tmp_path / "run"))
    found = result(tmp_path / "run")
    before, after = found["untrained"], found["evaluation"]
    # Of 27 tokens one is paid: a policy that learns writes it more often.
    assert after["reward"] > 2 * before["reward"] > 0  # type: ignore[index]


@pytest.mark.slow
def test_a_space_and_a_trainer_are_named_and_an_export_format_is_added_in_one_place(copy: Copy, tmp_path: Path) -> None:
    copy.write("pipeline/export/weights.py", part("An export format")[0])
    copy.edit("pipeline/export/formats.py", 'TRAINERS = ("verl",', 'TRAINERS = ("weights", "verl",')
    (tmp_path / "spaces.py").write_text(part("A search space")[0])
    (tmp_path / "toy.py").write_text(part("A trainer")[0])
    named = {**yaml.safe_load(part("A search space", "yaml")[0]), **yaml.safe_load(part("A trainer", "yaml")[0])}
    search = {"trials": 3, "sobol_trials": 1, "seeds": [0]}
    values = {"name": "toy", **named, "ppo": {"steps": 2}, "search": search, "confirm": {"seeds": [100, 101]}}
    config = tmp_path / "study.yaml"
    config.write_text(yaml.safe_dump({**values, "executor": {"name": "local"}}))
    said = copy.shapetune("launch", str(config), "--studies", str(tmp_path / "studies"))
    assert "1.00 prefix, lambda" in said
    copy.shapetune("export", str(tmp_path / "studies" / "toy"), "--format", "weights", "-o", str(tmp_path / "out"))
    assert "prefix 1.0\n" in (tmp_path / "out" / "weights.txt").read_text()
