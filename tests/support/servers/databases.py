"""Databases of a PostgreSQL server, for studies."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.settings import StorageSettings
from pipeline.search.early_stopping import Projection
from pipeline.search.proposal import EarlierTrial
from pipeline.storage.database import Database, study_database
from tests.support.searches import SPACE, asked, outer_loop
from tests.support.servers.postgres import PostgresServer
from tests.support.waiting import LIMIT_SECONDS


def database_of(
    server: PostgresServer, folder: Path, port: int | None = None, patience: float = LIMIT_SECONDS
) -> Database:
    url = server.url(server.new_database(), port=port)
    return study_database(StorageSettings(url=url, patience_seconds=patience), folder)


REASON = "nan: loss [/red] is nan \x1b[31m, " + "x" * 150
VALUES = {0: 0.25, 1: 0.75}


def url_of(database: Database) -> str:
    return database.url.render_as_string()


def fill(database: Database) -> None:
    tried = SPACE.decode({"weight_prefix": 0.5, "weight_shapley": 0.25, "gae_lambda": 0.8})
    outer = outer_loop(database, [EarlierTrial("old 2", tried, {0: 1.0, 1: 2.0}, {"kl_nats": 3.5})], objective="gain")
    outer.tell(asked(outer).index, VALUES, {"kl_nats": 4.0})
    outer.fail(asked(outer).index, REASON)
    outer.stop(asked(outer).index, Projection(-0.125, 0.0625))
    asked(outer)
