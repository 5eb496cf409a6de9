"""Where Ax keeps a study: a SQLite file or a PostgreSQL database, written in whole steps that outlast lost connections.

Ax writes a trial in several transactions and tries each one again on errors. A connection that is lost while one is
committed leaves unknown what was written, and trying again writes it twice. So every step of the outer loop is one
transaction here, and one that is tried again first looks whether it was written.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from typing import Any, TypeVar

import pandas
from ax.api.client import Client
from ax.storage.sqa_store import db
from ax.storage.sqa_store.load import load_experiment, load_generation_strategy_by_experiment_name
from ax.storage.sqa_store.save import (
    save_experiment,
    save_generation_strategy,
    save_or_update_trials,
    update_generation_strategy,
)
from ax.storage.sqa_store.sqa_classes import SQAExperiment, SQATrial
from ax.storage.sqa_store.utils import COPY_DB_IDS_ATTRS_TO_SKIP
from ax.utils.common.base import Base
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.orm import scoped_session, sessionmaker
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_delay,
    wait_exponential_jitter,
)

from pipeline.runtime.files import write_json
from pipeline.runtime.logging import quiet_libraries
from pipeline.search.ax_patches import DATABASE_NUMBER, experiment_of, properties_of, strategy_of, unsaved_runs
from pipeline.storage.database import Database, held_connection, make_engine, readable_error
from pipeline.storage.keys import IDENTITY, plain_text
from pipeline.storage.lock import StaleSession, lock_key
from shaping.errors import ConfigError

T = TypeVar("T")
# A server that became a standby's; the other server is found by connecting again.
READ_ONLY = "25006"


def as_stored(values: Mapping[str, float]) -> dict[str, float]:
    """Return values as a later process will read them: Ax keeps ten decimals.

    A search that uses them from the start proposes the same whether it is interrupted or not.
    """
    kept = pandas.read_json(StringIO(pandas.DataFrame({"value": list(values.values())}).to_json()), dtype=False)
    return dict(zip(values, map(float, kept["value"]), strict=True))


class Store:
    """One study in its database, read and written in whole steps.

    Args:
        database: Where.
        name: The study's name in it.
    """

    def __init__(self, database: Database, name: str) -> None:
        self._database, self._name = database, name
        held = held_connection(database, name)
        self._engine = make_engine(database) if held is None else held
        # Until then a connection that fails is a mistake in the address, and waiting does not mend it.
        self._was_connected = held is not None

    def open(self, make: Callable[[], Client]) -> Client:
        """Return the study's Ax client, as the database holds it, or a new one, kept there from now on.

        The client itself never writes; ``save`` does.

        Args:
            make: Makes a new one, without a database.

        Raises:
            ConfigError: The database holds another folder's study of this name, or has lost this folder's.
            ShapetuneError: It cannot be read or written.
        """
        identity = self._read_identity()
        if identity is None:
            identity = {"study": uuid.uuid4().hex, "created": False}
            self._write_identity(identity)
        client = self._step(lambda connection: self._opened(connection, identity, make))
        if not identity["created"]:
            self._write_identity({**identity, "created": True})
        return client

    def _opened(self, connection: Connection, identity: dict[str, Any], make: Callable[[], Client]) -> Client:
        prepare(connection, self._database)
        row = connection.execute(
            select(SQAExperiment.id, SQAExperiment.properties).where(SQAExperiment.name == self._name)
        ).one_or_none()
        if row is None:
            return self._created(identity, make())
        self._check_identity(identity, (row.properties or {}).get(IDENTITY) or {})
        client = Client()
        client.set_experiment(load_experiment(self._name))
        client.set_generation_strategy(
            load_generation_strategy_by_experiment_name(self._name, experiment=experiment_of(client))
        )
        return client

    def _created(self, identity: dict[str, Any], client: Client) -> Client:
        if identity["created"]:
            raise ConfigError(
                f"{self._database.shown} holds no study {self._name!r}, but this folder's study was begun there",
                "put a copy of the database back, or point storage to the one that the study was begun in",
            )
        properties_of(experiment_of(client))[IDENTITY] = {"study": identity["study"], **self._origin()}
        save_experiment(experiment_of(client))
        save_generation_strategy(strategy_of(client))
        return client

    def _origin(self) -> dict[str, str]:
        file = self._database.identity_file
        try:
            user = getpass.getuser()
        except (KeyError, OSError):
            # Containers run under numbers that have no name.
            user = str(os.getuid())
        return {"host": socket.gethostname(), "user": user, "folder": "" if file is None else str(file.parent)}

    def _check_identity(self, mine: dict[str, Any], theirs: dict[str, Any]) -> None:
        if self._database.identity_file is None or theirs.get("study") == mine["study"]:
            return
        # A file of a version that did not ask belongs to the folder that it stands in.
        if not theirs and not self._database.shared:
            return
        user, host, folder = (plain_text(str(theirs.get(key, "?"))) for key in ("user", "host", "folder"))
        where = f"{user} on {host} in {folder}" if theirs else "other software"
        raise ConfigError(
            f"{self._database.shown} holds a study {self._name!r} of another folder, begun by {where}",
            "change name in the config to start a new study, or launch from that folder to resume the old one",
        )

    def _read_identity(self) -> dict[str, Any] | None:
        file = self._database.identity_file
        if file is None or not file.is_file():
            return None
        try:
            kept = json.loads(file.read_text())
            return {"study": str(kept["study"]), "created": bool(kept["created"])}
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{file} is not what shapetune writes", "put a copy of it back") from error

    def _write_identity(self, identity: dict[str, Any]) -> None:
        file = self._database.identity_file
        if file is None:
            return
        write_json(file, identity)

    def save(self, client: Client, index: int, whole: bool = False) -> None:
        """Write a trial with its data, and what the generation strategy generated since the last time.

        Args:
            client: Holds them.
            index: The trial's.
            whole: Write the experiment as well.

        Raises:
            ShapetuneError: It could not be written however often it was tried. Nothing of it is written then.
        """
        experiment, strategy = experiment_of(client), strategy_of(client)
        trial = experiment.trials[index]
        runs = unsaved_runs(strategy)
        before, attempts = ids_below([trial, *runs, *([experiment] if whole else [])]), 0

        def write(connection: Connection) -> None:
            nonlocal attempts
            attempts += 1
            if attempts > 1 and not _is_stored(connection, experiment.db_id, index):
                # The server gives numbers of a transaction that it never finished to others.
                restore_ids(before)
            if runs:
                update_generation_strategy(strategy, runs)
            save_or_update_trials(experiment, [trial])
            if whole:
                save_experiment(experiment)

        self._step(write)

    def _step(self, work: Callable[[Connection], T]) -> T:
        """Return what ``work`` returns, done in one transaction; again where the connection is lost meanwhile."""
        retrying = Retrying(
            retry=retry_if_exception(self._is_lost),
            stop=stop_after_delay(self._database.patience_seconds),
            wait=wait_exponential_jitter(initial=0.5, max=15),
            before_sleep=self._announce,
            reraise=True,
        )
        try:
            done: T = retrying(self._once, work)
            return done
        except (DBAPIError, StaleSession) as error:
            raise readable_error(error, self._database) from error

    def _once(self, work: Callable[[Connection], T]) -> T:
        with quiet_libraries(), self._engine.begin() as connection, sessions_join(connection):
            self._was_connected = True
            return work(connection)

    def _is_lost(self, error: BaseException) -> bool:
        if isinstance(error, StaleSession):
            return True
        if not self._database.shared or not self._was_connected or not isinstance(error, DBAPIError):
            return False
        lost = error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
        return bool(lost or getattr(error.orig, "sqlstate", None) == READ_ONLY)

    def _announce(self, state: RetryCallState) -> None:
        if state.attempt_number == 1:
            patience = self._database.patience_seconds
            print(f"database {self._database.shown} is lost; trying again for {patience:.0f} s", file=sys.stderr)

    def close(self) -> None:
        """Close the connection; one that holds a lock stays."""
        if held_connection(self._database, self._name) is None:
            self._engine.dispose()


@contextmanager
def sessions_join(connection: Connection) -> Iterator[None]:
    """Let the sessions that Ax opens write through a connection, and leave it to its owner to commit."""
    before = db.SESSION_FACTORY
    db.SESSION_FACTORY = scoped_session(
        sessionmaker(bind=connection, expire_on_commit=False, join_transaction_mode="rollback_only")
    )
    try:
        yield
    finally:
        db.SESSION_FACTORY.remove()
        db.SESSION_FACTORY = before


def prepare(connection: Connection, database: Database) -> None:
    """Make the tables that are missing, their texts as long as may be; until its end, others wait for a transaction.

    Ax declares lengths for MySQL. SQLite ignores them, but PostgreSQL refuses the longest, and texts beyond the
    shorter ones, which a generation strategy needs.
    """
    if database.shared:
        # One at a time makes tables and names: neither is guarded by a constraint.
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": lock_key("")})
    for table in db.Base.metadata.tables.values():
        for column in table.columns:
            for kind in (column.type, getattr(column.type, "impl", None)):
                if kind is not None and hasattr(kind, "length"):
                    kind.length = None
    db.Base.metadata.create_all(connection)


def _is_stored(connection: Connection, experiment: int, index: int) -> bool:
    found = select(SQATrial.id).where(SQATrial.experiment_id == experiment, SQATrial.index == index)
    return connection.execute(found).first() is not None


# An object, one of its attributes, and the value.
Ids = list[tuple[Any, str, int | None]]


def ids_below(roots: Iterable[Any]) -> Ids:
    """Return the numbers of objects and of all that they consist of, as far as Ax gives numbers."""
    found: Ids = []
    seen: set[int] = set()
    waiting = list(roots)
    while waiting:
        each = waiting.pop()
        if isinstance(each, Mapping):
            waiting += each.values()
        elif isinstance(each, list | tuple | set):
            waiting += each
        elif isinstance(each, Base) and id(each) not in seen:
            seen.add(id(each))
            # An object without a number has none of its own.
            for name, value in {DATABASE_NUMBER: None, **vars(each)}.items():
                if name.endswith(DATABASE_NUMBER):
                    found.append((each, name, value))
                elif name not in COPY_DB_IDS_ATTRS_TO_SKIP:
                    waiting.append(value)
    return found


def restore_ids(ids: Ids) -> None:
    """Give objects the numbers back that they had."""
    for each, name, value in ids:
        setattr(each, name, value)
