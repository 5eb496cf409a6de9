"""The command line in processes of their own, forked from one that has imported the libraries.

A command that starts anew imports torch, transformers and Ax first, which takes more seconds than most of what is
tested takes. Our own code is imported by each process, as it is where a command starts anew.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.waiting import LIMIT_SECONDS

# Makes processes that have the libraries, for any function of ours.
FORKS = multiprocessing.get_context("forkserver")
# Ray is not among them: it reads its settings where it is imported.
FORKS.set_forkserver_preload(["tests.support.servers.libraries"])


class Command:
    """``shapetune`` with some arguments, under the names of ``subprocess.Popen``.

    Args:
        arguments: Of the command.
        cwd: Where it runs.
        environment: All of its variables; ``None`` takes those of this process.

    Reports that it writes are without Ax's own analyses, as by the fixture ``without_ax_analyses``.
    """

    def __init__(self, *arguments: str, cwd: Path | None = None, environment: dict[str, str] | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="command-")
        self._out, self._err = (Path(self._folder.name) / name for name in ("out", "err"))
        given = dict(os.environ) if environment is None else environment
        options = (list(arguments), str(cwd or Path.cwd()), given, str(self._out), str(self._err))
        self._process = FORKS.Process(target=_run, args=options)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """How it ended; the negative number of the signal that ended it."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return how it ended, or nothing where it runs."""
        return self._process.exitcode

    def wait(self, timeout: float = LIMIT_SECONDS) -> int:
        """Wait for its end; return how it ended."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("shapetune", timeout)
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, if it runs."""
        self.send_signal(signal.SIGKILL)

    def output(self) -> str:
        """What it has printed."""
        return self._out.read_text() if self._out.exists() else ""

    def printed(self) -> str:
        """What it has printed, wherever to."""
        return self.output() + self.errors()

    def errors(self) -> str:
        """What it has printed to its standard error."""
        return self._err.read_text() if self._err.exists() else ""


def _leave_out_ax_analyses() -> None:
    """Leave Ax's own analyses out of the reports of this process: they take longer than all else of a small study."""
    from pipeline.search import ax_analyses

    ax_analyses.ax_analyses = lambda outer: ()


def _run(arguments: list[str], cwd: str, environment: dict[str, str], out: str, err: str) -> None:
    """Become the command, in the fork."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    sys.argv = ["shapetune", *arguments]
    sys.path[:0] = [cwd, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    try:
        from pipeline.cli import main

        _leave_out_ax_analyses()
        main(arguments)
    finally:
        # A fork leaves them out.
        atexit._run_exitfuncs()
