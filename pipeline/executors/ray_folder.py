"""Where a Ray of the study's own keeps its session: its sockets' paths have no room for long temporary folders."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from shaping.errors import ShapetuneError

# What a system takes as the path of a socket, in bytes.
MOST_BYTES = 103 if sys.platform == "darwin" else 107
# What Ray puts behind its folder, with the longest process id and room for a number behind the socket's name.
BEHIND = "/session_2026-01-31_12-00-00_000000_4194304/sockets/plasma_store.1"
# In one of them a folder of this process alone is made, which nobody can guess.
SHORT = ("/tmp", "/var/tmp", "/dev/shm")  # nosec B108


def usual_folder(environment: Mapping[str, str]) -> str:
    """Return where Ray keeps its sessions when it is told nothing."""
    base = environment.get("RAY_TMPDIR") or (environment.get("TMPDIR") if sys.platform.startswith("linux") else None)
    return os.path.join(base or "/tmp", "ray")  # nosec B108


def fits(folder: str) -> bool:
    """Return whether the paths of Ray's sockets in a folder are short enough."""
    return len(os.fsencode(os.path.abspath(folder) + BEHIND)) <= MOST_BYTES


@contextmanager
def session_folder(environment: Mapping[str, str], places: Sequence[str] = SHORT) -> Iterator[Path | None]:
    """Give a folder for Ray's session where its usual one is too long, and remove it after the block.

    Args:
        environment: Of the process: ``RAY_TMPDIR`` and ``TMPDIR`` say which is the usual one.
        places: Short folders in which one may be made.

    Yields:
        The folder; ``None`` where the usual one serves.

    Raises:
        ShapetuneError: It does not, and none can be made.
    """
    usual = usual_folder(environment)
    if fits(usual):
        yield None
        return
    made = _made(places)
    if made is None:
        name = "RAY_TMPDIR" if environment.get("RAY_TMPDIR") else "TMPDIR"
        raise ShapetuneError(
            f"{name} = {os.path.dirname(usual)} is too long for Ray: the paths of its sockets would be beyond "
            f"{MOST_BYTES} bytes, and in none of {', '.join(places)} can a folder be made",
            f"set {name} to a shorter folder, or executor.name to local",
        )
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _made(places: Sequence[str]) -> Path | None:
    """Return a private folder in the first place where one can be made and fits."""
    for place in places:
        try:
            made = tempfile.mkdtemp(prefix="ray-", dir=place)
        except OSError:
            continue
        if fits(made):
            return Path(made)
        os.rmdir(made)
    return None
