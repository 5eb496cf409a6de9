"""A study's lock in a PostgreSQL database: held by the session that writes the study, and gone with it.

A session-level advisory lock. Host and process of its holder stand in the session's application name, which every
user of the server may read. https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS
"""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from shaping.errors import ShapetuneError

APPLICATION = "shapetune"
# PostgreSQL cuts application names to 63 bytes.
HOST_CHARACTERS = 36
# A machine that vanished is noticed after these seconds, not after the system's two hours; trials outlast any timeout
# of idle sessions. Sockets of one machine need none of it and ignore it.
SESSION = (
    "SET tcp_keepalives_idle = 30",
    "SET tcp_keepalives_interval = 10",
    "SET tcp_keepalives_count = 3",
    "SET idle_session_timeout = 0",
)
HOLDERS = """
SELECT (locks.classid::bigint << 32) | locks.objid::bigint AS key, locks.pid AS session, activity.application_name
FROM pg_locks AS locks JOIN pg_stat_activity AS activity ON activity.pid = locks.pid
WHERE locks.locktype = 'advisory' AND locks.objsubid = 1 AND locks.granted
AND locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


class StaleSession(Exception):
    """The lock is still held by a session that this process lost; the server is about to end it."""


@dataclass(frozen=True)
class Holder:
    """Who runs a study."""

    host: str
    process: int

    def __str__(self) -> str:
        return f"host {self.host}, process {self.process}"


class DatabaseLock:
    """The lock of one study of one database, for one launch.

    Args:
        name: The study's.
        shown: The database, as errors name it.
    """

    def __init__(self, name: str, shown: str) -> None:
        self._name, self._shown = name, shown
        # The last part tells two launches of one process apart.
        host = "".join(c if c.isalnum() or c in "-._" else "-" for c in socket.gethostname()[:HOST_CHARACTERS])
        host = host.encode("ascii", "replace").decode().replace("?", "-")
        self.application_name = f"{APPLICATION} {host} {os.getpid()} {secrets.token_hex(4)}"

    def take(self, connection: Any) -> None:
        """Take the lock for a new session, before anything else is done with it.

        Args:
            connection: A psycopg connection.

        Raises:
            ShapetuneError: Another launch holds it; its host and process are named.
            StaleSession: This launch held it in a session that was cut off.
        """
        before, connection.autocommit = connection.autocommit, True
        try:
            for setting in SESSION:
                connection.execute(setting)
            taken = connection.execute("SELECT pg_try_advisory_lock(%s)", (lock_key(self._name),)).fetchone()[0]
            if not taken:
                self._refuse(connection)
        finally:
            connection.autocommit = before

    def _refuse(self, connection: Any) -> None:
        found = connection.execute(
            # Our own words; the key is a parameter.
            f"SELECT session, application_name FROM ({HOLDERS}) AS h WHERE key = %s",  # nosec B608
            [lock_key(self._name)],
        ).fetchone()
        if found is None:
            raise StaleSession("its lock was just given back")
        session, application_name = found
        if application_name == self.application_name:
            # The role of the log-in may end its sessions; one that it was switched to may not.
            connection.execute("SET ROLE NONE")
            connection.execute("SELECT pg_terminate_backend(%s)", (session,))
            raise StaleSession("its lock is still held by a connection that was lost")
        raise ShapetuneError(
            f"study {self._name} of {self._shown} already runs: {_holder(application_name) or 'holder unknown'}",
            "wait for it, or stop that process; the lock of a machine that vanished is free after a minute",
        )


def lock_key(name: str) -> int:
    """Return the number that stands for a study's name: 64 bits with a sign."""
    return int.from_bytes(hashlib.sha256(f"{APPLICATION}:{name}".encode()).digest()[:8], "big", signed=True)


def find_holders(connection: Connection) -> dict[int, Holder]:
    """Return who holds which lock of this database, by ``lock_key``."""
    rows = connection.execute(text(HOLDERS))
    found = {int(row.key): _holder(row.application_name) for row in rows}
    return {key: holder for key, holder in found.items() if holder is not None}


def _holder(application_name: str | None) -> Holder | None:
    parts = (application_name or "").split(" ")
    if len(parts) != 4 or parts[0] != APPLICATION or not parts[2].isdecimal():
        return None
    return Holder(parts[1], int(parts[2]))
