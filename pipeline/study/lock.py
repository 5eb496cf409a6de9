"""One launch of a study at a time: a lock on a file, which a process that dies gives back."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import psutil

from shaping.errors import ShapetuneError


@contextmanager
def study_lock(path: Path, study: Path) -> Iterator[None]:
    """Hold a study against a second launch.

    The lock is the operating system's, so that a dead process holds none, whatever the file says. Where the file
    system has no locks, the file itself says who runs the study; a process of this host that is gone is recognised.

    Args:
        path: The lock's file.
        study: The study's folder, for errors.

    Raises:
        ShapetuneError: Another process runs this study; its host and process id are named.
    """
    with path.open("a+", encoding="utf-8") as file:
        owner = _owner(file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _refused(study, owner, "wait for it, or stop that process") from error
        except OSError as error:
            if _may_run(owner):
                remedy = f"wait for it, or stop that process; if it is gone, remove {path}"
                raise _refused(study, owner, remedy) from error
        file.truncate(0)
        file.write(json.dumps(_myself()))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def lock_holder(path: Path) -> str | None:
    """Return host and process of who runs a study, in words; ``None`` where nobody does.

    Reads what the file says: even a lock that is only tried could refuse a launch which begins at that moment.

    Args:
        path: The lock's file; need not exist.
    """
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="replace") as file:
        owner = _owner(file)
    return _shown(owner) if _may_run(owner) else None


def _myself() -> dict[str, Any]:
    return {"host": socket.gethostname(), "process": os.getpid(), "began": psutil.Process().create_time()}


def _owner(file: IO[str]) -> dict[str, Any]:
    file.seek(0)
    try:
        found = json.loads(file.read())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _may_run(owner: dict[str, Any]) -> bool:
    """Return whether a process that cannot be asked may still run."""
    if not owner:
        return False
    if owner.get("host") != socket.gethostname():
        return True
    try:
        # Another process may have got the number since.
        return bool(psutil.Process(int(owner["process"])).create_time() == owner.get("began"))
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


def _refused(study: Path, owner: dict[str, Any], remedy: str) -> ShapetuneError:
    return ShapetuneError(f"study {study} already runs: {_shown(owner)}", remedy)


def _shown(owner: dict[str, Any]) -> str:
    known = {"host", "process"} <= set(owner)
    return f"host {owner['host']}, process {owner['process']}" if known else "holder unknown"
