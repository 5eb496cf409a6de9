"""Files that a study keeps: absent, whole, or damaged; the last is said with the file's name and what to do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from shaping.errors import ShapetuneError

REMEDY = "remove it and run shapetune launch again: what is missing is made anew"
# What reading something else than was written comes to.
MISREAD = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)
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


def read_kept(path: Path, parse: Callable[[Any], Parsed]) -> Parsed | None:
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
    """Write a file so that it is either whole or not there."""
    partial = path.with_suffix(f".partial-{os.getpid()}")
    partial.write_text(json.dumps(values))
    os.replace(partial, path)
