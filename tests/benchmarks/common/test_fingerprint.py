"""Saved work counts only for what it was made of, and workers can import what they do.

Apart from ``test_cache``, whose workers import it: they should not have to import what is needed here.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from benchmarks.common import cache
from benchmarks.common.cache import fingerprint
from benchmarks.early_stopping import comparison as early_stopping
from benchmarks.outer import comparison as outer

ROOT = Path(__file__).parents[3]
MODULES = sorted(path for path in ROOT.glob("benchmarks/**/*.py") if path.name != "__init__.py")
POOLS = {"processes", "each_done", "ProcessPoolExecutor"}


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def calls(path: Path) -> set[str]:
    nodes = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return {node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "") for node in nodes}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{each.name}" for each in node.names)}
        elif isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
    return found


@pytest.mark.parametrize("module", [path for path in MODULES if path.name == "__main__.py"], ids=dotted)
def test_what_workers_do_stands_where_they_can_import_it(module: Path) -> None:
    # `python -m PACKAGE` calls this module `__main__`, and a fresh process has another one of that name.
    assert not POOLS & calls(module)


def test_what_others_import_is_never_run_itself_with_workers() -> None:
    imported = set[str]().union(*map(imports, MODULES))
    pools = [path for path in MODULES if POOLS & calls(path)]
    assert len(pools) >= 5
    run = [path for path in pools if '\nif __name__ == "__main__":\n' in path.read_text()]
    # As a program its classes would be those of `__main__`, and as an import other ones of the same name.
    assert not [dotted(path) for path in run if dotted(path) in imported]


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(FileNotFoundError, match=r"no file matches benchmarks/renamed\.py, configs/\*\.none: name what"):
        fingerprint(("benchmarks/outer/problems.py", "benchmarks/renamed.py", "configs/*.none"))


def test_a_fingerprint_is_of_the_files_that_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "ROOT", tmp_path)
    file = tmp_path / "a.py"
    file.write_text("x = 1")
    first = fingerprint(("*.py",))
    # The same file by two patterns is one file.
    assert fingerprint(("a.py", "*.py")) == first
    file.write_text("x = 2")
    assert fingerprint(("*.py",)) != first


@pytest.mark.parametrize("patterns", [outer.ALL_USE, outer.SHAPETUNE_FILES, early_stopping.USED])
def test_every_pattern_that_a_benchmark_uses_matches_a_file(patterns: tuple[str, ...]) -> None:
    for pattern in patterns:
        assert list(ROOT.glob(pattern)), pattern
    assert fingerprint(patterns)


def test_these_are_all_benchmarks_that_take_fingerprints() -> None:
    users = {dotted(path) for path in MODULES if "fingerprint" in calls(path)}
    assert users == {outer.__name__, early_stopping.__name__}
