"""The files of a study: read as absent, whole or damaged, and written whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from shaping.errors import ShapetuneError

REMEDY = "remove it and run shapetune launch again: what is missing is made anew"
# What reading something else than was written comes to.
MISREAD = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)
# Begins the names of files that are being written.
PARTIAL = ".partial-"
Parsed = TypeVar("Parsed")


class DamagedFileError(ShapetuneError):
    """A file that is there but is not what was written."""


def read_json(path: Path) -> Any:
    """Return the content of a JSON file, or ``None`` when it is not there.

    Raises:
        DamagedFileError: It is not JSON, or says nothing.
    """
    if not path.is_file():
        return None
    with understood(path):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content is None:
            raise ValueError("null")
        return content


def read_saved(path: Path, parse: Callable[[Any], Parsed]) -> Parsed | None:
    """Return a JSON file's parsed content, or ``None`` when it is not there.

    Raises:
        DamagedFileError: It is not what was written.
    """
    content = read_json(path)
    if content is None:
        return None
    with understood(path):
        return parse(content)


def read_lines(path: Path) -> list[Any]:
    """Return the values of a file that holds one JSON value a line; a line that was cut off is left out."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


@contextmanager
def understood(path: Path) -> Iterator[None]:
    """Raise ``DamagedFileError`` where the block cannot make sense of what a file says."""
    try:
        yield
    except ShapetuneError:
        raise
    except UnicodeDecodeError as error:
        # Its own words hold the whole file.
        raise DamagedFileError(f"{path} is damaged: {error.reason} at byte {error.start}", REMEDY) from error
    except MISREAD as error:
        said = " ".join(str(error).split())[:80]
        raise DamagedFileError(f"{path} is damaged: {type(error).__name__}: {said}", REMEDY) from error


def write_json(path: Path, values: Any) -> None:
    """Write a JSON file so that it is either whole or as it was before."""
    write_text(path, json.dumps(values))


def write_text(path: Path, text: str) -> None:
    """Write a text file so that it is either whole or as it was before."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside a file, which takes the file's place when the block ends and is removed where it raises.

    A link is replaced, not followed. Several machines may write the same file of a shared storage.
    """
    partial = path.with_name(f"{PARTIAL}{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def remove_partials(path: Path) -> None:
    """Remove what processes left behind that were killed while they wrote the file."""
    for left in path.parent.glob(f"{PARTIAL}{path.name}-*"):
        left.unlink(missing_ok=True)


def replace_folder(scratch: Path, target: Path) -> None:
    """Let a folder take another one's place: whoever reads finds the one or the other, or none for a moment."""
    if target.exists():
        shutil.rmtree(target)
    os.replace(scratch, target)
