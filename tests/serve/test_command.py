"""``shapetune serve``: where it listens, how it ends, and what it refuses."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import _run
from pipeline.serve.server import listening
from shaping.errors import ConfigError
from tests.support.servers.serving import REPOSITORY, get, served, write_studies
from tests.support.waiting import LIMIT_SECONDS

# The command itself, started again and again.
pytestmark = pytest.mark.slow


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    return write_studies(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_on_loopback_until_it_is_ended(number: signal.Signals, studies: Path) -> None:
    with served(str(studies), "--port", "0") as (process, address):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        assert "studies/whole/" in get(address)
        assert json.loads(get(f"{address}studies/begun/version"))["version"]
        port = address.rpartition(":")[2].strip("/")
        taken = subprocess.run(
            [sys.executable, "-m", "pipeline.cli", "serve", str(studies), "--port", port],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
        assert taken.returncode == 2 and f"--port {port}" in taken.stderr and "--port" in taken.stderr
        process.send_signal(number)
        _, errors = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 128 + number and errors == f"error: stopped by {number.name}\n"


def test_another_host_is_warned_of(studies: Path) -> None:
    with served(str(studies), "--port", "0", "--host", "0.0.0.0") as (process, address):
        assert get(address.replace("0.0.0.0", "127.0.0.1"))
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        said = process.stdout.read()
    assert "whoever reaches 0.0.0.0 can read it" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], ["no study and no folder"]),
        (["postgresql://u:hidden@h/d"], ["serve", "u:***@h/d", "PGPASSWORD"]),
        (["postgresql://u@127.0.0.1:9/d"], ["127.0.0.1:9/d"]),
        (["mysql://u@127.0.0.1:9/d"], ["mysql"]),
        ([".", "--host", "no.such.host.invalid"], ["--host no.such.host.invalid"]),
        ([".", "--port", "70000"], ["port"]),
    ],
)
def test_what_cannot_be_served_is_refused(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments if "--port" in arguments else [*arguments, "--port", "0"]
    assert _run(["serve", *given]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words) and "hidden" not in said and "Traceback" not in said


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("pipeline.serve.server.find_spec", lambda name: None)
    assert _run(["serve", "."]) == 2
    assert "pip install 'shapetune[serve]'" in capsys.readouterr().err


def test_a_port_is_free_again_at_once() -> None:
    with listening("127.0.0.1", 0) as opened:
        port = opened.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port} of 127.0.0.1"):
            listening("127.0.0.1", port)
    listening("127.0.0.1", port).close()
