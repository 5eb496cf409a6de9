"""Our own source calls nothing that runs what it reads."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("shaping", "search_spaces", "pipeline", "benchmarks")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "pty", "commands"}
BUILTINS = {"eval", "exec", "compile", "__import__", "input", "breakpoint"}
# By the name's end, so that an alias of the module does not hide it.
CALLS = {
    "os.system": "a shell",
    "os.popen": "a shell",
    "os.exec": "a shell",
    "subprocess.getoutput": "a shell",
    "subprocess.getstatusoutput": "a shell",
    "yaml.load": "safe_load",
    "yaml.load_all": "safe_load",
    "yaml.full_load": "safe_load",
    "yaml.unsafe_load": "safe_load",
    "torch.load": "safetensors",
    "torch.save": "safetensors",
    "torch.hub.load": "a folder",
    "tempfile.mktemp": "mkdtemp",
    "pandas.read_pickle": "JSON",
    "sympy.sympify": "ax_patches",
}
# Where code that the config names is imported, and where SymPy gets what was found to be a plain sum.
ALLOWED = {
    ("shaping/user_code.py", "exec_module"),
    ("pipeline/search/ax_patches.py", "sympy.sympify"),
}
SHELL_OR_CODE = {
    "shell": True,
    "trust_remote_code": True,
    "weights_only": False,
    "allow_pickle": True,
    "autoescape": False,
}


class Findings(ast.NodeVisitor):
    """What a module does that it should not, each with its line."""

    def __init__(self, name: str) -> None:
        self.name, self.found = name, list[str]()
        self._names: dict[str, str] = {}

    def _add(self, node: ast.AST, what: str) -> None:
        if (self.name, what) not in ALLOWED:
            self.found.append(f"{self.name}:{getattr(node, 'lineno', 0)} {what}")

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._imported(node, alias.name)
            self._names[alias.asname or alias.name.partition(".")[0]] = (
                alias.name if alias.asname else alias.name.partition(".")[0]
            )

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self._imported(node, node.module or "")
        for alias in node.names:
            self._names[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    def _imported(self, node: ast.AST, module: str) -> None:
        if module.partition(".")[0] in MODULES:
            self._add(node, f"imports {module}")

    def visit_Call(self, node: ast.Call) -> None:
        called = self._dotted(node.func)
        if called in BUILTINS:
            self._add(node, called)
        for name in CALLS:
            if called == name or called.startswith(f"{name}v") or called.endswith(f".{name}"):
                self._add(node, name)
        if called.endswith(".exec_module"):
            self._add(node, "exec_module")
        if called.endswith("numpy.load") or called == "np.load":
            self._add(node, "numpy.load")
        for keyword in node.keywords:
            value = keyword.value
            wrong = keyword.arg in SHELL_OR_CODE and isinstance(value, ast.Constant)
            if wrong and value.value is SHELL_OR_CODE[str(keyword.arg)]:  # type: ignore[attr-defined]
                self._add(node, f"{keyword.arg}={value.value}")  # type: ignore[attr-defined]
        self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> None:
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(value, ast.Constant):
                if key.value in SHELL_OR_CODE and value.value is SHELL_OR_CODE[key.value]:
                    self._add(node, f"{key.value}={value.value}")
        self.generic_visit(node)

    def _dotted(self, node: ast.AST) -> str:
        if isinstance(node, ast.Name):
            return self._names.get(node.id, node.id)
        return f"{self._dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def findings(source: str, name: str) -> list[str]:
    visitor = Findings(name)
    visitor.visit(ast.parse(source))
    return visitor.found


def test_no_module_of_ours_runs_what_it_reads() -> None:
    assert len(SOURCES) > 100
    found = [each for path in SOURCES for each in findings(path.read_text(), path.relative_to(ROOT).as_posix())]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import cloudpickle as c",
        "eval('1')",
        "exec(text)",
        "import os\nos.system('ls')",
        "from os import system\nsystem('ls')",
        "import os\nos.execvp('ls', [])",
        "import subprocess as s\ns.run('ls', shell=True)",
        "import subprocess\nsubprocess.getoutput('ls')",
        "import yaml\nyaml.load(text)",
        "from yaml import unsafe_load as read\nread(text)",
        "import torch\ntorch.load('f')",
        "from torch import load\nload('f')",
        "import torch\ntorch.jit.f(weights_only=False)",
        "Auto.from_pretrained('x', trust_remote_code=True)",
        "options = {'trust_remote_code': True}",
        "import numpy as np\nnp.load('f', allow_pickle=True)",
        "from jinja2 import Environment\nEnvironment(autoescape=False)",
        "from sympy import sympify\nsympify(text)",
        "spec.loader.exec_module(module)",
        "__import__(name)",
    ],
)
def test_what_it_looks_for_is_found(source: str) -> None:
    assert findings(source, "somewhere.py")


def test_harmless_calls_are_left_alone() -> None:
    source = "import re, yaml, subprocess\nmodel.eval()\nre.compile('a')\nyaml.safe_load(t)\nsubprocess.run(['ls'])"
    assert findings(source, "somewhere.py") == []
