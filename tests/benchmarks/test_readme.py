"""The benchmarks' README has a row for whatever can be run, and what it names exists."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
README = (FOLDER / "README.md").read_text()
COMMAND = re.compile(r"python -m (benchmarks[\w.]+)")
ROWS = [line.strip("| ").split(" | ") for line in README.splitlines() if line.startswith("| `python -m ")]
# Module to its command, question, minutes and result.
BY_MODULE = {COMMAND.findall(row[0])[0]: row for row in ROWS}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(FOLDER.parent).with_suffix("").parts).removesuffix(".__main__")


def test_every_module_that_can_be_run_has_one_row_and_every_row_can_be_run() -> None:
    runnable = {
        module_of(path) for path in FOLDER.rglob("*.py") if '\nif __name__ == "__main__":\n' in path.read_text()
    }
    assert runnable == set(BY_MODULE)
    assert len(ROWS) == len(BY_MODULE)


def test_the_command_of_every_result_has_a_row_that_links_it() -> None:
    records = {path: json.loads(path.read_text()) for path in FOLDER.glob("results/*.json")}
    # Some studies' winners are from before commands were recorded.
    commands = {path: record["command"] for path, record in records.items() if "command" in record}
    assert {path.stem for path in set(records) - set(commands)} <= {path.stem for path in FOLDER.rglob("*-winner.json")}
    for path, command in commands.items():
        row = BY_MODULE[COMMAND.findall(command)[0]]
        if path.with_suffix(".md").exists():
            assert f"(results/{path.stem}.md)" in row[3], path


@pytest.mark.parametrize("module", sorted(set(COMMAND.findall(README))))
def test_every_module_that_is_named_is_found(module: str) -> None:
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    if spec.submodule_search_locations is not None:
        assert find_spec(f"{module}.__main__") is not None


def test_every_row_has_a_question_and_says_how_long_it_takes() -> None:
    for command, question, minutes, result in ROWS:
        assert "?" in question and minutes and result, command
        assert re.search(r"\d|not recorded|part of", minutes), command


def test_every_link_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    for link in links:
        assert (FOLDER / link).is_file(), link


def test_every_room_stands_in_the_layout() -> None:
    layout = README.split("## Layout")[1]
    rooms = {path.parent.name for path in FOLDER.glob("*/__init__.py")}
    assert rooms <= set(re.findall(r"^\| `(\w+)/`", layout, flags=re.MULTILINE))


def test_sentences_are_short() -> None:
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    prose = re.sub(r"^(#|\|\s*---).*$", "", prose, flags=re.MULTILINE)
    # Each cell of a table, and each paragraph, begins a new sentence.
    parts = re.split(r"(?<=[.?:;])\s+|\s\|\s|\n\n|\n\|", prose)
    assert max(len(part.split()) for part in parts) <= 25
