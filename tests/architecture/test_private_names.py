"""What is used of a library that is private to it stands in one file a library, by name, with what would replace it."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
OWN = ("pipeline", "shaping", "search_spaces", "shapetune")
# Each file that may use private names, with its library, and the classes there that have them.
FILES: dict[str, tuple[str, tuple[str, ...]]] = {
    "pipeline/search/ax_patches.py": (
        "ax",
        (
            "ax.api.client:Client",
            "ax.core.experiment:Experiment",
            "ax.core.generator_run:GeneratorRun",
            "ax.generation_strategy.generation_strategy:GenerationStrategy",
        ),
    ),
    "pipeline/executors/ray_private.py": ("ray", ("ray:init",)),
    "shaping/attention_implementation.py": ("transformers", ("transformers.configuration_utils:PreTrainedConfig",)),
    "pipeline/estimate/live_bytes.py": ("torch", ("torch.nn.modules.module:Module",)),
    "shaping/adapters/trl.py": ("trl", ("trl.trainer.grpo_trainer:GRPOTrainer",)),
    # Not installed beside the others; its tests run the names in an environment of its own.
    "shaping/adapters/verl.py": ("verl", ()),
}
PRIVATE = re.compile(r"_[A-Za-z]\w*")
EXEMPT = {"_exit"}


def sources() -> dict[str, ast.Module]:
    paths = sorted(path for package in OWN for path in (ROOT / package).rglob("*.py"))
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


SOURCES = sources()


def is_private(name: str) -> bool:
    return PRIVATE.fullmatch(name) is not None and name not in EXEMPT


def is_own(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def private_imports(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """Yield what of another package is imported by a path with a private part."""
    modules = [node.module] if isinstance(node, ast.ImportFrom) else []
    for name in [f"{module}.{alias.name}" for module in modules for alias in node.names] or [
        alias.name for alias in node.names
    ]:
        if name.split(".")[0] not in OWN and any(is_private(part) for part in name.split(".")):
            yield name


def private_uses(tree: ast.Module) -> set[str]:
    """Return every private name that a file uses of an object or a package that is not its own."""
    found, mine = set(), own_methods(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= set(private_imports(node))
        elif isinstance(node, ast.Attribute) and is_private(node.attr) and not is_own(node.value):
            # A class may know the methods of another of its objects.
            if not (isinstance(node.value, ast.Name) and node.attr in mine):
                found.add(node.attr)
        elif isinstance(node, ast.keyword) and node.arg is not None and is_private(node.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Dict):
            # Options that are passed on.
            found |= {key.value for key in node.keys if is_private_text(key)}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in REACHING:
            found |= {argument.value for argument in node.args[1:2] if is_private_text(argument)}
        elif isinstance(node, ast.ClassDef) and extends_a_library(node, tree):
            found |= inherited_names(node)
    return found


def own_methods(tree: ast.Module) -> set[str]:
    """Return the names of the methods that a file's classes define."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return {each.name for node in classes for each in node.body if isinstance(each, ast.FunctionDef)}


REACHING = ("getattr", "setattr", "hasattr", "delattr")


def is_private_text(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and is_private(node.value)


def extends_a_library(node: ast.ClassDef, tree: ast.Module) -> bool:
    """Return whether a class's base comes from another package, or from nobody knows where."""
    homes = {
        alias.asname or alias.name: (each.module or "").split(".")[0]
        for each in ast.walk(tree)
        if isinstance(each, ast.ImportFrom)
        for alias in each.names
    }
    homes |= {each.name: OWN[0] for each in ast.walk(tree) if isinstance(each, ast.ClassDef)}
    known = {*OWN, *sys.stdlib_module_names}
    bases = [base.value if isinstance(base, ast.Subscript) else base for base in node.bases]
    plain = [base.id for base in bases if isinstance(base, ast.Name) and not hasattr(builtins, base.id)]
    return any(homes.get(name, "") not in known for name in plain)


def inherited_names(node: ast.ClassDef) -> set[str]:
    """Return the private names that a class uses of itself and does not define."""
    mine, used = set(), set()
    for each in ast.walk(node):
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
            mine.add(each.name)
        elif isinstance(each, ast.Attribute) and is_own(each.value):
            (mine if isinstance(each.ctx, ast.Store) else used).add(each.attr)
        elif isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
            mine.add(each.id)
    return {name for name in used - mine if is_private(name)}


def table(tree: ast.Module, name: str = "PRIVATE_NAMES") -> dict[str, str]:
    """Return a file's list of names; the file itself may need a library that is not installed."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return dict(ast.literal_eval(node.value))
    return {}


def without_table(tree: ast.Module) -> ast.Module:
    body = [
        node for node in tree.body if not (isinstance(node, ast.Assign) and "_NAMES" in ast.unparse(node.targets[0]))
    ]
    return ast.Module(body=body, type_ignores=[])


def covers(listed: str, used: str) -> bool:
    return used == listed or used.startswith(f"{listed}.")


def mentioned(tree: ast.Module) -> set[str]:
    """Return all that a file names, beside its list: private names, imported modules, and texts."""
    found = private_uses(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return found


@pytest.mark.parametrize("file", SOURCES)
def test_every_private_name_is_on_its_files_list(file: str) -> None:
    tree = without_table(SOURCES[file])
    listed = table(SOURCES[file]) if file in FILES else {}
    assert {used for used in private_uses(tree) if not any(covers(name, used) for name in listed)} == set()


@pytest.mark.parametrize("file", FILES)
def test_every_listed_name_is_used_there_and_says_why(file: str) -> None:
    listed, used = table(SOURCES[file]), mentioned(without_table(SOURCES[file]))
    assert listed and all(len(why.split()) > 3 for why in listed.values())
    assert [name for name in listed if not any(covers(name, each) for each in used)] == []


def test_there_is_no_other_list() -> None:
    assert [file for file, tree in SOURCES.items() if table(tree)] == sorted(FILES)


@pytest.mark.parametrize(("file", "name"), [(file, name) for file in FILES for name in table(SOURCES[file])])
def test_every_listed_name_is_still_the_librarys(file: str, name: str) -> None:
    library, owners = FILES[file]
    if library == "verl":
        pytest.skip("in an environment of its own: tests/adapters/test_verl.py")
    if "." in name:
        importlib.import_module(name)
        return
    places = (owner.partition(":") for owner in owners)
    found = [getattr(importlib.import_module(module), owner) for module, _, owner in places]
    if any(inspect.isfunction(each) for each in found):
        # An option: the function takes it by its name.
        assert any(f'"{name}"' in inspect.getsource(each) for each in map(inspect.unwrap, found))
        return
    classes = {each for owner in found for each in inspect.getmro(owner) if each.__module__.split(".")[0] == library}
    assert any(defines(each, name) for each in classes)


def defines(owner: type[Any], name: str) -> bool:
    """Return whether a class has a member of that name, declares one or sets it on itself."""
    return (
        name in vars(owner) or re.search(rf"\bself\.{name}\b *(:[^=\n]+)?=[^=]", inspect.getsource(owner)) is not None
    )


@pytest.mark.parametrize("place", table(SOURCES["pipeline/search/ax_patches.py"], "REPLACED_NAMES"))
def test_every_replaced_name_is_there_and_replaced(place: str) -> None:
    from pipeline.search import ax_patches

    module, _, name = place.rpartition(".")
    ax_patches.install()
    assert getattr(importlib.import_module(module), name).__module__ == ax_patches.__name__


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x._y", {"_y"}),
        ("self._y", set()),
        ("x.__dict__", set()),
        ("os._exit(1)", set()),
        ("super()._y()", {"_y"}),
        ("getattr(x, '_y', None)", {"_y"}),
        ("setattr(x, '_y', 1)", {"_y"}),
        ("call(**{'_y': 1})", {"_y"}),
        ("call(_y=1)", {"_y"}),
        ("from ray._private import y", {"ray._private.y"}),
        ("from trl.trainer import _y", {"trl.trainer._y"}),
        ("import ray._private.y", {"ray._private.y"}),
        ("from pipeline.a import _y", set()),
        ("from trl import T\nclass A(T):\n    def f(self):\n        self._y()", {"_y"}),
        ("from trl import T\nclass A(T):\n    def f(self):\n        self._y = self._y", set()),
        ("class A(base):\n    def f(self):\n        return self._y", {"_y"}),
        ("from pipeline.a import T\nclass A(T):\n    def f(self):\n        return self._y", set()),
        ("class A(Exception):\n    def f(self):\n        return self._y", set()),
        ("class A:\n    def _y(self):\n        return other._y()", set()),
        ("from trl import T\nclass A(T):\n    def _y(self):\n        return super()._y()", {"_y"}),
    ],
)
def test_the_scan_sees_what_is_private(code: str, expected: set[str]) -> None:
    assert private_uses(ast.parse(code)) == expected
