"""The lock of a study in a PostgreSQL database: one launch at a time, whichever host it is on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pipeline.storage.database
from pipeline.search.outer_loop import OuterLoop
from pipeline.storage.database import Database, locked, make_engine
from pipeline.storage.lock import find_holders, lock_key
from shaping.errors import ShapetuneError
from tests.support.searches import asked, outer_loop, tell
from tests.support.servers.databases import database_of
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.proxy import Proxy
from tests.support.waiting import wait_until

REPOSITORY = Path(__file__).parents[2]
HOLD = """
import sys, time
from sqlalchemy import make_url
from pipeline.storage.database import Database, make_engine
from pipeline.storage.lock import DatabaseLock
connection = make_engine(Database(make_url(sys.argv[1])), DatabaseLock("study", "db")).connect()
print("held", flush=True)
time.sleep(600)
"""


def holders(server: PostgresServer, database: Database) -> dict[int, Any]:
    engine = make_engine(database)
    with engine.connect() as connection:
        found = find_holders(connection)
    engine.dispose()
    return found


def end_sessions(server: PostgresServer, database: Database) -> None:
    server.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database.url.database}'",
    )


def run_locked(database: Database, then: Callable[[OuterLoop], None]) -> None:
    with locked(database, "study"):
        outer = outer_loop(database)
        tell(outer, asked(outer))
        then(outer)


def test_a_second_launch_is_refused_with_the_firsts_host_and_process(postgres: PostgresServer, tmp_path: Path) -> None:
    database = database_of(postgres, tmp_path)

    def second(outer: OuterLoop) -> None:
        words = rf"(?s)study study of postgresql.* already runs: host {socket.gethostname()}, process {os.getpid()}\n"
        with pytest.raises(ShapetuneError, match=words), locked(database, "study"):
            raise AssertionError
        with locked(database, "another"):
            assert set(holders(postgres, database)) == {lock_key("study"), lock_key("another")}

    run_locked(database, second)
    assert holders(postgres, database) == {}
    run_locked(database, lambda outer: None)


def test_a_lost_lock_is_taken_again_before_anything_is_written(postgres: PostgresServer, tmp_path: Path) -> None:
    database = database_of(postgres, tmp_path)

    def cut(outer: OuterLoop) -> None:
        end_sessions(postgres, database)
        assert holders(postgres, database) == {}
        tell(outer, asked(outer))
        assert set(holders(postgres, database)) == {lock_key("study")}

    run_locked(database, cut)
    assert len(outer_loop(database).trials()) == 2


def test_a_launch_that_lost_its_lock_to_another_one_ends_and_writes_nothing(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    database = database_of(postgres, tmp_path)

    def cut(outer: OuterLoop) -> None:
        running = asked(outer)
        end_sessions(postgres, database)
        # The other launch, of another host: it has not been told of the first one.
        held = dict(pipeline.storage.database._held)
        pipeline.storage.database._held.clear()
        with locked(database, "study"):
            with pytest.raises(ShapetuneError, match="already runs: host"):
                tell(outer, running)
            assert [row["status"] for row in outer_loop(database).trials()] == ["completed", "running"]
        pipeline.storage.database._held.update(held)

    run_locked(database, cut)


def test_a_lock_that_the_server_still_gives_to_the_lost_connection_is_taken_from_it(
    proxy: Proxy, postgres: PostgresServer, tmp_path: Path
) -> None:
    proxy.leave_server_side = True
    database = database_of(postgres, tmp_path, proxy.port)

    def cut(outer: OuterLoop) -> None:
        proxy.cut_all()
        assert len(holders(postgres, database)) == 1
        tell(outer, asked(outer))
        assert len(holders(postgres, database)) == 1

    run_locked(database, cut)
    assert len(outer_loop(database).trials()) == 2


def test_a_killed_process_leaves_no_lock(postgres: PostgresServer, tmp_path: Path) -> None:
    database = database_of(postgres, tmp_path)
    command = [sys.executable, "-c", HOLD, database.url.render_as_string()]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        with pytest.raises(ShapetuneError, match=f"process {process.pid}"), locked(database, "study"):
            raise AssertionError
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait_until(lambda: not holders(postgres, database), "the server notices that the process is gone")
    with locked(database, "study"):
        pass
