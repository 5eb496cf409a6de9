"""The databases that studies are kept in."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.servers.postgres import PASSWORD, PostgresServer
from tests.support.servers.proxy import Proxy

# Set to leave out what needs a server; without it, a machine that cannot start one fails the tests.
WITHOUT = "SHAPETUNE_TESTS_WITHOUT_POSTGRESQL"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for all tests of a process."""
    if os.environ.get(WITHOUT):
        pytest.skip(f"{WITHOUT} is set")
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres(postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> PostgresServer:
    """The server, with the password of the tests' user where libpq looks for it."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    return postgres_server


@pytest.fixture
def proxy(postgres: PostgresServer) -> Iterator[Proxy]:
    """A connection to the server that a test can break."""
    proxy = Proxy(postgres.port)
    yield proxy
    proxy.close()
