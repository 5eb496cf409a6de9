"""Two launches of one study: the second is refused, a dead one's lock is free."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.study.lock import study_lock
from shaping.errors import ShapetuneError

HOLDER = """
import sys, time
from pathlib import Path
from pipeline.study.lock import study_lock
with study_lock(Path(sys.argv[1]), Path("study")):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Any:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / ".lock")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_launch_is_refused_by_host_and_process(holder: Any, tmp_path: Path) -> None:
    expected = rf"(?s)already runs: host {socket.gethostname()}, process {holder.pid}.*wait for it"
    with pytest.raises(ShapetuneError, match=expected), study_lock(tmp_path / ".lock", Path("study")):
        pass


def test_the_lock_of_a_killed_process_is_free(holder: Any, tmp_path: Path) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    # The file still says that it holds the study.
    assert json.loads((tmp_path / ".lock").read_text())["process"] == holder.pid
    with study_lock(tmp_path / ".lock", Path("study")):
        assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()
    assert (tmp_path / ".lock").read_text() == ""


def _no_locks(file: Any, how: int) -> None:
    raise OSError(errno.ENOLCK, "no locks available")


@pytest.mark.parametrize(
    ("change", "is_refused"),
    [({}, True), ({"host": "elsewhere"}, True), ({"began": 1.0}, False), ({"process": 2**22 + 1}, False)],
    ids=["runs here", "on another host", "its number was given away", "gone"],
)
def test_where_the_file_system_has_no_locks_the_file_says_who_runs_it(
    change: dict[str, Any], is_refused: bool, holder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ".lock"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    monkeypatch.setattr(fcntl, "flock", _no_locks)
    if is_refused:
        with (
            pytest.raises(ShapetuneError, match=r"(?s)already runs.*if it is gone, remove"),
            study_lock(path, tmp_path),
        ):
            pass
    else:
        with study_lock(path, tmp_path):
            pass


@pytest.mark.parametrize("content", ["", "host a, process 7", "[1]", "\x00"])
def test_a_lock_file_that_says_nothing_holds_nobody(content: str, tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(content)
    with study_lock(tmp_path / ".lock", tmp_path):
        pass
