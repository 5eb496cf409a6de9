import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("shaping", "search_spaces", "pipeline")
LONGEST_FILE = 400
# An adapter imports the trainer that it is for.
ADAPTED = {
    "shaping/adapters/skyrl.py": {"skyrl"},
    "shaping/adapters/trl.py": {"trl"},
    "shaping/adapters/verl.py": {"verl", "transfer_queue", "tensordict"},
}
LATER_ROOMS = ("trial", "outer", "study", "executors", "cli")


def files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imported_modules(path: Path) -> set[str]:
    """Return every module a file imports, wherever the statement stands; ``from a import b`` gives a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def top_level(modules: set[str]) -> set[str]:
    return {module.split(".")[0] for module in modules}


def reaches(modules: set[str], target: str) -> bool:
    return any(module == target or module.startswith(f"{target}.") for module in modules)


def file_of(module: str) -> Path | None:
    path = ROOT / Path(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def transitive_modules(path: Path) -> set[str]:
    seen, waiting = set(), [path]
    while waiting:
        new = imported_modules(waiting.pop()) - seen
        seen |= new
        waiting += [file for module in new if module.split(".")[0] in PACKAGES and (file := file_of(module))]
    return seen


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("shaping", {"torch", "transformers", "shaping"}),
        ("search_spaces", {"torch", "transformers", "shaping", "search_spaces", "ax"}),
    ],
)
def test_package_imports_only_what_lies_before_it(folder, allowed):
    assert files(folder)
    foreign = {
        name_of(path): top_level(imported_modules(path))
        - allowed
        - ADAPTED.get(name_of(path), set())
        - sys.stdlib_module_names
        for path in files(folder)
    }
    assert {name: modules for name, modules in foreign.items() if modules} == {}


def test_only_executors_import_ray():
    users = [name_of(path) for path in files(*PACKAGES) if "ray" in top_level(imported_modules(path))]
    assert users and all(user.startswith("pipeline/executors/ray_") for user in users)


def test_package_never_imports_tests_or_benchmarks():
    users = [name_of(path) for path in files(*PACKAGES) if top_level(imported_modules(path)) & {"tests", "benchmarks"}]
    assert users == []


@pytest.mark.parametrize("room", LATER_ROOMS)
@pytest.mark.parametrize("folder", ["pipeline/trainers/ppo", "pipeline/tasks"])
def test_inner_loop_knows_nothing_of_later_rooms(folder, room):
    assert files(folder)
    assert [name_of(path) for path in files(folder) if reaches(transitive_modules(path), f"pipeline.{room}")] == []


@pytest.mark.parametrize(
    "module", ["ax", "ray", "botorch", "pipeline.search.outer_loop", "pipeline.executors", "pipeline.study.study"]
)
def test_trial_does_not_import(module):
    assert not reaches(imported_modules(ROOT / "pipeline/trials/run.py"), module)


@pytest.mark.parametrize(
    "module", ["ray", "pipeline.search.outer_loop", "pipeline.executors", "pipeline.study.study", "pipeline.cli"]
)
def test_trial_does_not_reach(module):
    assert not reaches(transitive_modules(ROOT / "pipeline/trials/run.py"), module)


@pytest.mark.parametrize(
    ("folder", "later"),
    [
        ("pipeline/executors", ("outer", "study", "cli")),
        ("pipeline/search/outer_loop.py", ("executors", "study", "cli")),
        ("pipeline/study/study.py", ("cli",)),
    ],
)
def test_outer_rooms_import_one_way(folder, later):
    path = ROOT / folder
    modules = set().union(*(imported_modules(file) for file in (files(folder) if path.is_dir() else [path])))
    assert [room for room in later if reaches(modules, f"pipeline.{room}")] == []


def test_no_file_is_longer_than_one_reader_bears():
    skipped = {"tests", "build", "dist"}
    own = [
        path
        for path in ROOT.rglob("*.py")
        if not any(part in skipped or part[0] == "." for part in path.relative_to(ROOT).parts)
    ]
    assert len(own) > 30
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in own}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}
