"""A study's database, and connections to it that notice when they are lost. Knows nothing of Ax."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

from pipeline.config.settings import StorageSettings
from pipeline.storage.lock import APPLICATION, DatabaseLock, StaleSession
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
# In a study's folder: which study of its database it belongs to.
IDENTITY_FILE = "database.json"
# For a lock that was given back while its holder was looked for.
LOCK_WAIT, LOCK_STOP = wait_fixed(0.2), stop_after_attempt(5)
# The one connection of each study that this process has locked, by address and study.
_held: dict[tuple[str, str], Engine] = {}


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


def readable_error(error: BaseException, database: Database) -> ShapetuneError:
    """Return a library's error as one that a user can act on; it quotes neither statements nor values."""
    said = str(getattr(error, "orig", None) or error).strip().partition("\n")[0] or type(error).__name__
    if not database.shared:
        return ShapetuneError(
            f"the study's database {database.shown}: {said}",
            "check its disk and its permissions; where it is damaged, put a copy of it back and launch again",
        )
    return ShapetuneError(
        f"database {database.shown}: {said}",
        "check that the server runs and lets you in (PGPASSWORD or ~/.pgpass), then run the same command to resume; "
        "nothing that was finished is lost",
    )


def sqlite_file(path: Path) -> Database:
    """Return the database that is one file, made when it is not there."""
    return Database(URL.create("sqlite", database=str(path)))


def study_database(settings: StorageSettings, root: Path) -> Database:
    """Return the database of the study in a folder: the one that its config names, or ``study.db`` in the folder."""
    url = URL.create("sqlite", database=str(root / "study.db")) if settings.url is None else make_url(settings.url)
    return Database(url, settings.patience_seconds, root / IDENTITY_FILE)


@contextmanager
def locked(database: Database, name: str) -> Iterator[None]:
    """Hold a study of a shared database against launches on other hosts; the folder's lock is enough for a file.

    The lock belongs to the one connection that the study is written through while it is held: a launch that lost
    its lock cannot write, and takes it again with its next step.

    Raises:
        ShapetuneError: Another process runs the study, or the database cannot be reached.
    """
    if not database.shared:
        yield
        return
    engine, key = make_engine(database, DatabaseLock(name, database.shown)), (str(database.url), name)
    try:
        for attempt in Retrying(
            retry=retry_if_exception_type(StaleSession), wait=LOCK_WAIT, stop=LOCK_STOP, reraise=True
        ):
            with attempt, engine.connect():
                _held[key] = engine
    except (DBAPIError, StaleSession) as error:
        engine.dispose()
        raise readable_error(error, database) from error
    try:
        yield
    finally:
        del _held[key]
        engine.dispose()


def held_connection(database: Database, name: str) -> Engine | None:
    """Return the one connection through which this process writes a study that it has locked; ``None`` without one."""
    return _held.get((str(database.url), name))
