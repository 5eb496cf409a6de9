"""docs/databases.md: its statements are run on a server, its addresses are read, its rights are enough."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from pipeline.config.settings import StorageSettings
from pipeline.storage.database import Database, locked, study_database
from pipeline.study.database_status import read_stored_status, read_stored_studies
from shaping.errors import ShapetuneError
from tests.support.searches import asked, made, measured, outer_loop, tell
from tests.support.servers.postgres import PASSWORD, PostgresServer
from tests.support.servers.proxy import Proxy
from tests.support.studies import tiny_config
from tests.support.waiting import LIMIT_SECONDS

PAGE = (Path(__file__).parents[2] / "docs" / "databases.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def statements(block: str) -> list[str]:
    return [each.strip().replace("choose one", PASSWORD) for each in block.split(";") if each.strip()]


def database_of(server: PostgresServer, user: str, folder: Path, port: int | None = None) -> Database:
    settings = StorageSettings(url=server.url("shapetune", user=user, port=port), patience_seconds=LIMIT_SECONDS)
    return study_database(settings, made(folder))


def test_the_page_sets_up_what_users_readers_and_backups_need(
    postgres: PostgresServer, proxy: Proxy, tmp_path: Path
) -> None:
    server, once, user, reader = postgres, *map(statements, blocks("sql"))
    server.execute(*once)
    for name in ("alice", "bob"):
        server.execute(*(each.replace("alice", name) for each in user))
    # bob writes into tables that alice made, and outlasts a connection that only he lost.
    proxy.leave_server_side = True
    loops = {}
    for name, port in (("alice", None), ("bob", proxy.port)):
        database = database_of(server, name, tmp_path / name, port)
        with locked(database, name):
            loops[name] = outer = outer_loop(database, name=name)
            tell(outer, asked(outer))
            proxy.cut_all()
            tell(outer, asked(outer))
    server.execute(*reader, database="shapetune")
    url = server.url("shapetune", user="reader")
    assert [each["study"] for each in read_stored_studies(url)] == ["alice", "bob"]
    assert len(read_stored_status(url, "bob")["trials"]) == 2
    with pytest.raises(ShapetuneError, match="permission denied"):
        outer_loop(database_of(server, "reader", tmp_path / "reader"), name="reader")
    # Whoever is in none of the roles is kept out.
    with pytest.raises(ShapetuneError, match="permission denied"):
        read_stored_studies(server.url("shapetune"))
    dump = server.dump("shapetune")
    server.execute("DROP DATABASE shapetune WITH (FORCE)", once[1])
    with pytest.raises(ShapetuneError, match="holds no study"):
        outer_loop(database_of(server, "alice", tmp_path / "alice"), name="alice")
    server.execute("DROP DATABASE shapetune WITH (FORCE)", once[1])
    server.restore(dump, "shapetune")
    again = outer_loop(database_of(server, "alice", tmp_path / "alice"), name="alice")
    assert measured(again) == measured(loops["alice"]) and asked(again).index == 2


def test_the_pages_configs_are_read() -> None:
    address, section = (tiny_config(**yaml.safe_load(block)).storage for block in blocks("yaml"))
    assert address.url == section.url and (address.patience_seconds, section.patience_seconds) == (300, 900)


def test_a_password_file_lets_a_user_in(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPASSWORD")
    name = postgres.new_database()
    settings = StorageSettings(url=postgres.url(name))
    with pytest.raises(ShapetuneError, match="no password supplied"):
        outer_loop(study_database(settings, made(tmp_path / "without")))
    line = re.findall(r"`(\S+:PASSWORD)`", PAGE)[0]
    for before, now in (
        ("db.example:5432", f"127.0.0.1:{postgres.port}"),
        ("shapetune:alice", f"{name}:tester"),
        ("PASSWORD", PASSWORD),
    ):
        assert before in line
        line = line.replace(before, now)
    file = tmp_path / "pgpass"
    file.write_text(f"{line}\n")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file))
    database = study_database(settings, made(tmp_path / "with"))
    outer = outer_loop(database)
    tell(outer, asked(outer))
    written = [path for path in (tmp_path / "with").rglob("*") if PASSWORD in path.read_text(errors="replace")]
    assert written == []


def test_parts_of_the_address_come_from_the_environment(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"PGHOST": "127.0.0.1", "PGPORT": str(postgres.port), "PGUSER": "tester"}
    for name, value in {**names, "PGDATABASE": postgres.new_database()}.items():
        assert f"`{name}`" in PAGE
        monkeypatch.setenv(name, value)
    database = study_database(StorageSettings(url="postgresql+psycopg://"), tmp_path)
    with locked(database, "study"):
        assert asked(outer_loop(database)).index == 0
    assert len(read_stored_status("postgresql+psycopg://", "study")["trials"]) == 1
