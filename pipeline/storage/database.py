"""A study's database, and connections to it that notice when they are lost. Knows nothing of Ax."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event

from pipeline.storage.lock import APPLICATION, DatabaseLock
from shaping.errors import ShapetuneError

# How a lost connection is noticed, in libpq's words, unless the address says otherwise.
CONNECTION = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
SQLITE_WAIT_SECONDS = 60


@dataclass(frozen=True)
class Database:
    """A study's database.

    Attributes:
        url: Its address, without a password.
        patience_seconds: How long a lost connection is tried again.
        identity_file: Tells whether a study of the database is this folder's; ``None`` does not ask.
    """

    url: URL
    patience_seconds: float = 0.0
    identity_file: Path | None = None

    @property
    def shared(self) -> bool:
        """Whether other folders' studies may stand in it."""
        return self.url.get_backend_name() != "sqlite"

    @property
    def shown(self) -> str:
        """The database as messages name it."""
        return self.url.render_as_string(hide_password=True) if self.shared else str(self.url.database)


def make_engine(database: Database, lock: DatabaseLock | None = None) -> Engine:
    """Return an engine of one connection, which is tested before each use and takes the lock when it is made."""
    if not database.shared:
        return create_engine(database.url, hide_parameters=True, connect_args={"timeout": SQLITE_WAIT_SECONDS})
    chosen: dict[str, Any] = {key: value for key, value in CONNECTION.items() if key not in database.url.query}
    chosen |= {"application_name": APPLICATION if lock is None else lock.application_name}
    engine = create_engine(
        database.url, pool_size=1, max_overflow=0, pool_pre_ping=True, hide_parameters=True, connect_args=chosen
    )
    if lock is not None:
        event.listen(engine, "connect", lambda connection, _: lock.take(connection))
    return engine


def explained(error: BaseException, database: Database) -> ShapetuneError:
    """Return a library's error as one that a user can act on; it quotes neither statements nor values."""
    said = str(getattr(error, "orig", None) or error).strip().partition("\n")[0] or type(error).__name__
    if not database.shared:
        return ShapetuneError(
            f"the study's database {database.shown}: {said}",
            "check its disk and its permissions; where it is damaged, put a copy of it back and launch again",
        )
    return ShapetuneError(
        f"database {database.shown}: {said}",
        "check that the server runs and lets you in (PGPASSWORD or ~/.pgpass), then run the same command to go on; "
        "nothing that was finished is lost",
    )
