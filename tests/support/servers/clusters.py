"""Ray clusters of several nodes on one host, each node a process tree of its own that a test can kill."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

from tests.support.servers.starting import starts
from tests.support.waiting import LIMIT_SECONDS, CouldNotStart, wait_until

RAY = str(Path(sys.executable).with_name("ray"))
# `ray start` gives a node 30 seconds to be known, which no setting changes: on a busy machine it is started again.
ATTEMPTS = 4
STORE_BYTES = 80 * 2**20
# A node that is gone is noticed in seconds; Ray's own settings take about half a minute.
QUICK = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Node:
    """One node: ``ray start --block`` and all that it started.

    Args:
        arguments: Of ``ray start``.
        variables: Of its environment, beside this process's own.
        ready: Where it says that it runs.
    """

    def __init__(self, arguments: list[str], variables: dict[str, str], ready: Path) -> None:
        self._log = ready
        # Files, no pipes: what Ray starts would hold a pipe open.
        with ready.open("w") as log:
            self._process = subprocess.Popen(
                [RAY, "start", *arguments, "--block", "--disable-usage-stats"],
                env={**os.environ, **variables},
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def wait(self) -> bool:
        """Wait until it runs; return whether it does, and has not given up."""
        what = "`ray start` ends or says that it runs"
        wait_until(lambda: self._runs() or self._process.poll() is not None, what, log=self.log)
        return self._runs()

    def _runs(self) -> bool:
        return "Ray runtime started." in self.log()

    def log(self) -> str:
        """What ``ray start`` printed."""
        return self._log.read_text()

    def processes(self) -> list[psutil.Process]:
        """All processes of the node, workers too."""
        try:
            whole = psutil.Process(self._process.pid)
            return [whole, *whole.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """Kill every process of the node at once, as a power cut would."""
        doomed = self.processes()
        for process in doomed:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._process.wait()
        psutil.wait_procs(doomed, timeout=LIMIT_SECONDS)


class Cluster:
    """A head that runs no trials, and nodes that do.

    Args:
        variables: Of the environment of its processes.
        dashboard: Whether it takes jobs.
        cpus: The head's own.
    """

    def __init__(self, variables: dict[str, str] | None = None, dashboard: bool = False, cpus: int = 0) -> None:
        # Names of sockets are short.
        self.folder = Path(tempfile.mkdtemp(prefix="rc-", dir="/tmp"))
        self.token = secrets.token_hex(32)
        # Said on every node: a head alone would find a token in the home folder, and a node that joins would not look.
        self.variables = {**QUICK, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, **(variables or {})}
        self.address = f"127.0.0.1:{free_port()}"
        self._dashboard, self._cpus = dashboard, cpus
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.head: Node | None = None
        self.nodes: list[Node] = []

    def __enter__(self) -> Cluster:
        starts("a Ray cluster")
        arguments = ["--head", f"--port={self.address.rpartition(':')[2]}", f"--temp-dir={self.folder}"]
        arguments += [f"--include-dashboard={str(self._dashboard).lower()}", f"--dashboard-port={self._port}"]
        try:
            self.head = self._start([*arguments, "--dashboard-host=127.0.0.1"], self._cpus)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        for node in (*self.nodes, self.head):
            if node is not None:
                node.kill()
        for path in (self.folder, *self.folder.parent.glob(f"{self.folder.name}-*.log")):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def add(self, cpus: int) -> Node:
        """Let a node join; one at a time, as two that start at once on one host get into each other's way."""
        node = self._start([f"--address={self.address}"], cpus)
        self.nodes.append(node)
        return node

    def _start(self, arguments: list[str], cpus: int) -> Node:
        common = [f"--num-cpus={cpus}", "--num-gpus=0", f"--object-store-memory={STORE_BYTES}"]
        ready = self.folder.with_name(f"{self.folder.name}-{len(self.nodes) + (self.head is not None)}.log")
        for _ in range(ATTEMPTS):
            # What starts jobs has one port by default, on which a cluster of another test may listen already.
            port = f"--dashboard-agent-listen-port={free_port()}"
            node = Node([*arguments, *common, port], self.variables, ready)
            try:
                if node.wait():
                    return node
            except BaseException:
                node.kill()
                raise
            node.kill()
        raise CouldNotStart(f"a node of the Ray cluster {self.address} could not start, {ATTEMPTS} times", node.log())
