"""Commands that tests fork end, speak and are killed as those that start anew."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.servers.commands import Command
from tests.support.waiting import LIMIT_SECONDS, wait_until

pytestmark = pytest.mark.slow


def test_a_forked_command_has_its_own_exit_code_words_and_place(tmp_path: Path) -> None:
    here = os.getcwd()
    wrong = Command("lunch", cwd=tmp_path)
    assert wrong.wait() == wrong.poll() == wrong.returncode == 2
    assert wrong.errors().startswith("error: ") and "lunch" in wrong.printed() and wrong.output() == ""
    told = Command("status", "none", cwd=tmp_path, environment={**os.environ, "SHAPETUNE_TOLD": "1"})
    assert told.wait() == 2 and "Traceback" not in told.printed()
    assert os.getcwd() == here and "SHAPETUNE_TOLD" not in os.environ


def test_a_forked_command_imports_our_code_from_where_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "pipeline" / "search").mkdir(parents=True)
    for name in ("__init__.py", "search/__init__.py", "search/ax_analyses.py"):
        (tmp_path / "pipeline" / name).touch()
    (tmp_path / "pipeline" / "cli.py").write_text(
        "import sys\ndef main(given): sys.exit(f'a copy was given {given}')\n"
    )
    copy = Command("a", "b", cwd=tmp_path, environment={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert copy.wait() == 1 and copy.errors() == "a copy was given ['a', 'b']\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_forked_command_ends_by_a_signal_as_another_does(number: signal.Signals, code: int, tmp_path: Path) -> None:
    command = Command("serve", str(tmp_path), "--port", "0")
    with pytest.raises(subprocess.TimeoutExpired):
        command.wait(0.01)
    wait_until(lambda: "http" in command.printed(), "it serves", process=command, log=command.printed)
    command.send_signal(number)
    ended = command.wait(LIMIT_SECONDS)
    # A server that is asked to end has done what it was to do.
    assert ended == code or (number != signal.SIGKILL and ended == 0)
