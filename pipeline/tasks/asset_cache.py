"""Builds what a task needs once, and keeps it under a hash of everything that made it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.runtime.files import replace_folder
from shaping.errors import ShapetuneError

MANIFEST = "manifest.json"
# Raised by hand when the code that builds assets changes what it builds.
BUILD_VERSION = 2
LIBRARIES = ("torch", "transformers", "tokenizers", "trl")


def cache_folder() -> Path:
    """Return the folder of downloads and assets: ``SHAPETUNE_CACHE``, or the user's cache folder."""
    chosen = os.environ.get("SHAPETUNE_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "shapetune"


def asset_key(kind: str, recipe: dict[str, Any]) -> str:
    """Return the name of the asset folder: its kind and a hash of recipe, build version and libraries."""
    made_of = {"recipe": recipe, "build": BUILD_VERSION, "libraries": {name: version(name) for name in LIBRARIES}}
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
    return f"{kind}-{digest[:16]}"


def asset_folder(cache: Path, kind: str, recipe: dict[str, Any]) -> Path:
    """Return where an asset stands, whether it is built or not."""
    return cache / "assets" / asset_key(kind, recipe)


def build_once(cache: Path, kind: str, recipe: dict[str, Any], build: Callable[[Path], dict[str, Any]]) -> Path:
    """Return the folder of a complete asset, building it when it is not there.

    The build happens in a folder beside it that is renamed at the very end: an interrupted build leaves nothing
    that could be taken for a finished one, and what it left is removed by the next. Two processes that want
    the same asset build it once.

    Args:
        cache: The cache folder.
        kind: What is built; the first part of the folder's name.
        recipe: Everything that decides the content, as plain values.
        build: Fills the folder it is given and returns facts for the manifest.

    Raises:
        ShapetuneError: The cache folder cannot be written.
    """
    target = asset_folder(cache, kind, recipe)
    if is_complete(target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _only_builder(target):
            if not is_complete(target):
                _build(target, recipe, build)
    except PermissionError as error:
        raise ShapetuneError(
            f"the cache folder {cache} cannot be written: {error.strerror}",
            "set SHAPETUNE_CACHE to a folder of yours",
        ) from error
    return target


def is_complete(folder: Path) -> bool:
    """Return whether the folder holds a finished asset whose files have their recorded sizes."""
    try:
        files: dict[str, list[Any]] = json.loads((folder / MANIFEST).read_text())["files"]
        sizes = {name: size for name, (size, _) in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items())


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what the build recorded: recipe, facts and the size and sha256 of each file."""
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    return manifest


def recorded_files(folder: Path) -> dict[str, list[Any]]:
    """Return the size and sha256 of each file below a folder, as a manifest holds them."""
    return {
        str(path.relative_to(folder)): [path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()]
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _build(target: Path, recipe: dict[str, Any], build: Callable[[Path], dict[str, Any]]) -> None:
    for left in target.parent.glob(f".{target.name}-*"):
        shutil.rmtree(left, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        facts = build(scratch)
        manifest = {"recipe": recipe, "facts": facts, "files": recorded_files(scratch)}
        (scratch / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
        scratch.chmod(0o755)
        replace_folder(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _only_builder(target: Path) -> Iterator[None]:
    """Hold an advisory lock; the operating system releases it even when the process is killed."""
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
