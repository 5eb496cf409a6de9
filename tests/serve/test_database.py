"""Studies of a database in a browser: what it holds, and that it may be lost and found again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.serve.database import DatabaseSource
from pipeline.storage.database import Database
from tests.support.servers.databases import database_of, fill, url_of
from tests.support.servers.postgres import PASSWORD, PostgresServer
from tests.support.servers.serving import client_of


@pytest.fixture
def database(postgres: PostgresServer, tmp_path: Path) -> Database:
    return database_of(postgres, tmp_path)


def test_a_database_is_served_from_what_it_holds(database: Database) -> None:
    seconds = [0.0]
    source = DatabaseSource(url_of(database), lambda: seconds[0])
    client = client_of(source)
    assert "No study is kept there yet" in client.get("/").text
    fill(database)
    # Many viewers ask once.
    assert "No study is kept there yet" in client.get("/").text
    seconds[0] += 60
    listed, page = client.get("/").text, client.get("/studies/study/")
    assert 'href="studies/study/"' in listed and "2 completed, 1 stopped, 1 failed, 1 running" in listed
    assert page.status_code == 200 and "+1.500" in page.text and "unfinished" in page.text
    assert "loss [/red] is nan" in page.text and PASSWORD not in listed + page.text
    assert client.get("/studies/nothing/").status_code == 404
    assert client.get("/studies/study/version").json()["now"].startswith("not running; ")


def test_a_database_that_is_lost_is_told_and_found_again(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(database)
    seconds = [0.0]
    source = DatabaseSource(url_of(database), lambda: seconds[0])
    client = client_of(source)
    whole = client.get("/studies/study/version").json()["version"]
    found, source._url = source._url, "postgresql://tester@127.0.0.1:9/x"
    seconds[0] += 60
    lost = client.get("/studies/study/")
    assert lost.status_code == 503 and "127.0.0.1:9/x" in lost.text and client.get("/").status_code == 503
    mark = re.search(r'data-version="(\w+)"', lost.text)
    assert mark is not None and client.get("/studies/study/version").json()["version"] == mark[1]
    source._url = found
    assert client.get("/studies/study/version").json()["version"] == whole
