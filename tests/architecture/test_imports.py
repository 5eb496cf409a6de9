"""Rooms and the order of their imports, lazy ones included."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("shaping", "search_spaces", "pipeline", "shapetune")
# From the ground up: a room imports what stands in rows above its own, and nothing of its own row's others.
ORDER = (
    ("shaping",),
    ("search_spaces",),
    ("runtime",),
    ("trainers.base",),
    ("trainers.ppo", "trainers.custom"),
    ("tasks",),
    ("config",),
    ("storage", "trials"),
    ("search", "executors", "estimate"),
    ("study",),
    ("analysis", "explain", "export"),
    ("report",),
    ("serve", "commands"),
    ("cli",),
    ("__main__", "submitted", "shapetune"),
)
ALLOWED = {
    room: frozenset(earlier for above in ORDER[:place] for earlier in above) | {room}
    for place, row in enumerate(ORDER)
    for room in row
}
# A library that one room alone imports; in pipeline, or everywhere in the packages.
ONLY = {"ray": ("executors",), "ax": ("search", "search_spaces", "shapetune"), "botorch": ("search",)}
# An adapter imports the trainer that it is for; what an export writes is not imported here.
ADAPTED = {
    "shaping/adapters/skyrl.py": {"skyrl"},
    "shaping/adapters/trl.py": {"trl"},
    "shaping/adapters/verl.py": {"verl", "transfer_queue", "tensordict"},
}


def files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported_modules(path: Path) -> set[str]:
    """Return every module a file imports, wherever the statement stands; ``from a import b`` gives a.b if it is one."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path} uses a relative import"
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in below if file_of(name)}
            found |= modules | ({node.module} if modules != below else set())
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            found |= imported_by_name(node.args[0])
    return found


def imported_by_name(argument: ast.expr) -> set[str]:
    """Return what ``import_module`` is given: a constant, or the constant beginning of a formatted string."""
    first = argument.values[0] if isinstance(argument, ast.JoinedStr) else argument
    return {str(first.value).rstrip(".")} if isinstance(first, ast.Constant) else set()


def file_of(module: str) -> Path | None:
    path = ROOT / Path(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def room_of(module: str) -> str:
    """Return the room of a module of ours: a package, a folder or file of pipeline, a trainer."""
    parts = module.split(".")
    if parts[0] != "pipeline":
        return parts[0]
    return ".".join(parts[1:3]) if parts[1:2] == ["trainers"] else ".".join(parts[1:2])


def room_of_file(path: Path) -> str:
    return room_of(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))


def top_level(modules: set[str]) -> set[str]:
    return {module.split(".")[0] for module in modules}


def test_every_room_is_listed_and_every_listed_one_is_there() -> None:
    rooms = {room_of_file(path) for path in files(*PACKAGES)} - {"pipeline", "trainers", "trainers.__init__", ""}
    assert rooms == set(ALLOWED)


def test_a_room_imports_only_what_stands_before_it() -> None:
    broken = [
        f"{name_of(path)} imports {module}"
        for path in files(*PACKAGES)
        for module in imported_modules(path)
        if module.split(".")[0] in PACKAGES
        and path.name != "__init__.py"
        and room_of(module) not in ALLOWED[room_of_file(path)]
    ]
    assert broken == []


def test_the_reader_of_imports_sees_lazy_ones_and_those_by_name(tmp_path: Path) -> None:
    file = tmp_path / "lazy.py"
    file.write_text(
        "def later(form):\n    from pipeline.search import store\n    from pipeline.config.load import load_config\n"
        "    import_module(f'pipeline.export.{form}')\n    importlib.import_module('pipeline.report.page')\n"
    )
    assert imported_modules(file) == {
        "pipeline.search.store",
        "pipeline.config.load",
        "pipeline.export",
        "pipeline.report.page",
    }


@pytest.mark.parametrize("library", ONLY)
def test_a_library_stands_in_its_room_alone(library: str) -> None:
    users = {
        room_of_file(path): name_of(path) for path in files(*PACKAGES) if library in top_level(imported_modules(path))
    }
    assert users and set(users) <= set(ONLY[library]), users


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("shaping", {"torch", "transformers", "shaping"}),
        ("search_spaces", {"torch", "transformers", "shaping", "search_spaces", "ax"}),
    ],
)
def test_a_package_imports_no_other_library(package: str, allowed: set[str]) -> None:
    foreign = {
        name_of(path): top_level(imported_modules(path))
        - allowed
        - ADAPTED.get(name_of(path), set())
        - sys.stdlib_module_names
        for path in files(package)
    }
    assert foreign and {name: modules for name, modules in foreign.items() if modules} == {}


def test_packages_never_import_tests_or_benchmarks() -> None:
    users = [name_of(path) for path in files(*PACKAGES) if top_level(imported_modules(path)) & {"tests", "benchmarks"}]
    assert users == []


def public_names(path: Path) -> list[str]:
    defined = (ast.FunctionDef, ast.ClassDef)
    names = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, defined)]
    return [name for name in names if not name.startswith("_")]


# One name in many modules is meant where all of them serve one contract: tasks, credit methods, exports, commands.
CONTRACTS = {
    *("location", "unbuilt", "prepare", "load", "load_judge", "made_of"),
    *("solve", "plan"),
    *("snippet", "dense_rewards", "check_arguments"),
    *("main", "run", "train", "explain", "serve", "launch", "load_config"),
}


def test_a_public_name_means_one_thing() -> None:
    homes: dict[str, list[str]] = {}
    for path in files(*PACKAGES):
        for name in public_names(path):
            homes.setdefault(name, []).append(name_of(path))
    assert {name: paths for name, paths in homes.items() if len(paths) > 1 and name not in CONTRACTS} == {}
