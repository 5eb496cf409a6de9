"""What one reader bears: folders of few modules, short files and functions, tests that stand on their own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("pipeline", "shaping", "search_spaces", "shapetune", "benchmarks")
WIDEST_FOLDER, LONGEST_FILE, LONGEST_FUNCTION = 16, 400, 50
# Users import these modules by their paths; they may become fewer, not more.
WIDE = {"shaping": 20, "shaping/credit": 17}
# Most of it is one table of options; it may become shorter, not longer.
LONG = {"pipeline/tasks/models/language_model.py:fine_tune": 57}


def modules(*folders: str) -> list[Path]:
    found = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    assert found
    return found


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yield each function of a file with its lines, decorators and docstring not counted."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first, last = node.body[0], node.body[-1].end_lineno or 0
            documented = ast.get_docstring(node) is not None
            docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
            yield f"{name_of(path)}:{node.name}", last - node.lineno + 1 - docstring


@pytest.mark.parametrize("folder", [*PACKAGES, "tests"])
def test_no_folder_is_wider_than_a_reader_bears(folder: str) -> None:
    widths: dict[str, int] = {}
    for path in modules(folder):
        if path.name != "__init__.py":
            widths[name_of(path.parent)] = widths.get(name_of(path.parent), 0) + 1
    assert {name: width for name, width in widths.items() if width > WIDE.get(name, WIDEST_FOLDER)} == {}


def test_no_file_is_longer_than_a_reader_bears() -> None:
    lengths = {
        name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in modules(*PACKAGES, "tests")
    }
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_no_function_is_longer_than_a_reader_bears() -> None:
    lengths = dict(each for path in modules(*PACKAGES) for each in functions(path))
    assert len(lengths) > 1000
    assert {name: length for name, length in lengths.items() if length > LONG.get(name, LONGEST_FUNCTION)} == {}


def test_no_test_imports_another_tests_module() -> None:
    found = []
    for path in modules("tests"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            names = [f"{node.module}.{name}" for name in names] if isinstance(node, ast.ImportFrom) else names
            parts = {part for name in names if name.startswith("tests.") for part in name.split(".")}
            if any(part.startswith("test_") or part == "conftest" for part in parts):
                found.append(f"{name_of(path)}:{node.lineno}")
    assert found == []


def test_packages_import_nothing_of_their_own() -> None:
    # The command line must start fast, and a room is entered by its modules.
    inits = [path for path in modules("pipeline") if path.name == "__init__.py"]
    assert len(inits) > 10
    assert [name_of(path) for path in inits if path.read_text(encoding="utf-8").strip()] == []
