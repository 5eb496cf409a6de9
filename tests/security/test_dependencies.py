"""Every installed dependency is the pinned one, and none is older than the repair of a hole that concerns us."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
# First version without the hole, by name: known in 2026-11, and no substitute for `make audit`.
REPAIRED = {
    "jinja2": ("3.1.6", "CVE-2025-27516, 2025-03: a chat template leaves the sandbox"),
    "pyarrow": ("14.0.1", "CVE-2023-47248, 2023-11: a data set runs code"),
    "pyyaml": ("5.4", "CVE-2020-14343, 2021-02: a YAML file runs code"),
    "ray": ("2.54.0", "CVE-2026-27482, 2026-02: a web page deletes jobs through the dashboard"),
    "torch": ("2.10.0", "CVE-2026-24747, 2026-01: weights_only does not stop a hostile file"),
    "transformers": ("4.48.0", "CVE-2024-11392, 2024-11: a model's file runs code"),
}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines if line)}


def closure(requirements: list[str]) -> Iterator[tuple[str, str]]:
    """Yield name and version of everything installed that the requirements lead to."""
    waiting, seen = [(Requirement(text), "") for text in requirements], set[tuple[str, frozenset[str]]]()
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            found = distribution(requirement.name)
        except PackageNotFoundError:
            continue
        yield key[0], found.version
        below = [Requirement(text) for text in found.requires or []]
        waiting += [(each, wanted) for each in below for wanted in ("", *requirement.extras)]


def project() -> dict[str, list[str]]:
    values = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {"": values["dependencies"], **values["optional-dependencies"]}


def declared() -> list[str]:
    extras = ("bench", "docs", "gguf", "lora", "postgresql", "saasbo", "test")
    every = [text for extra in ("", *extras) for text in project().get(extra, [])]
    return [text for text in every if not text.startswith("shapetune")]


def test_every_installed_dependency_is_the_pinned_one() -> None:
    pinned, installed = pins(), dict(closure(declared()))
    assert len(installed) > 80 and {"torch", "ray", "mpmath", "h11"} <= set(installed)
    # Local parts tell builds apart, such as torch's for processors alone.
    wrong = {
        name: (version, pinned.get(name))
        for name, version in installed.items()
        if version.partition("+")[0] != (pinned.get(name) or "").partition("+")[0]
    }
    assert wrong == {}


def test_pins_are_whole_sorted_and_told_once() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line) for line in lines)
    assert len(pins()) == len(lines)


@pytest.mark.parametrize("name", sorted(REPAIRED))
def test_pins_are_not_older_than_repairs(name: str) -> None:
    repaired, why = REPAIRED[name]
    assert Version(pins()[name]) >= Version(repaired), why


def test_a_closure_goes_through_extras_and_markers() -> None:
    found = dict(closure(["ray[tune]", "selenium; python_version < '3'", "no-such-package-at-all"]))
    assert {"ray", "pandas", "pyarrow"} <= set(found)
    assert "selenium" not in found
