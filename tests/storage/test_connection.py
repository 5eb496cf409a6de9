"""A PostgreSQL database that goes away in the middle of a study: nothing is lost, nothing is written twice."""

from __future__ import annotations

import threading
import traceback
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, text

from pipeline.config.settings import StorageSettings
from pipeline.search.store import Store, prepare
from pipeline.storage.database import Database, locked, make_engine, sqlite_file, study_database
from shaping.errors import ShapetuneError
from tests.support.searches import asked, ended_in_every_way, measured, outer_loop, row_counts, tell
from tests.support.servers.databases import database_of
from tests.support.servers.postgres import PASSWORD, PostgresServer
from tests.support.servers.proxy import Proxy, cut_at


def undisturbed(folder: Path) -> tuple[list[dict[str, Any]], list[Any], dict[str, int]]:
    database = sqlite_file(folder / "reference.db")
    ended_in_every_way(outer_loop(database))
    outer = outer_loop(database)
    return outer.trials(), measured(outer), row_counts(database)


def test_numbers_that_went_to_another_study_meanwhile_are_not_written_over(
    proxy: Proxy, postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = database_of(postgres, tmp_path, proxy.port)
    (tmp_path / "other").mkdir()
    name = str(database.url.database)
    direct = study_database(StorageSettings(url=postgres.url(name)), tmp_path / "other")
    other = outer_loop(direct, name="other")

    def rewind(store: Store, state: Any) -> None:
        # A server that crashes forgets which numbers a transaction took that it never finished.
        for table in ("trial_v2", "arm_v2", "generator_run_v2", "data_v2", "metric_v2"):
            postgres.execute(
                f"SELECT setval('{table}_id_seq', (SELECT count(*) + 1 FROM {table}), false)", database=name
            )
        tell(other, asked(other))

    monkeypatch.setattr(Store, "_announce", rewind)
    outer = outer_loop(database)
    proxy.before = cut_at(1)
    tell(outer, asked(outer))
    for study, folder in (("study", database), ("other", direct)):
        loop = outer_loop(folder, name=study)
        assert [row["status"] for row in loop.trials()] == ["completed"]
    assert row_counts(database)["trial_v2"] == row_counts(database)["data_v2"] == 2


# Committed are: the study, then each of four trials as it is asked for, and as it ends.
COMMITS = 8


@pytest.mark.parametrize(
    ("moment", "count"),
    [("before", 1), ("before", 2), ("before", COMMITS), *(("after", i + 1) for i in range(COMMITS))],
)
def test_a_commit_that_nobody_knows_the_outcome_of_is_done_once(
    moment: str, count: int, proxy: Proxy, postgres: PostgresServer, tmp_path: Path
) -> None:
    seen: list[bool] = []
    cut = cut_at(count)
    setattr(proxy, moment, lambda said: seen.append(cut(said)) or seen[-1])
    database = database_of(postgres, tmp_path, proxy.port)
    ended_in_every_way(outer_loop(database))
    assert sum(seen) == 1
    again = outer_loop(database)
    assert (again.trials(), measured(again), row_counts(database)) == undisturbed(tmp_path)


@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_a_search_outlasts_its_servers_restart(how: str, postgres: PostgresServer, tmp_path: Path) -> None:
    database = database_of(postgres, tmp_path)
    outer = outer_loop(database)
    tell(outer, asked(outer))
    running = asked(outer)
    postgres.stop(how)
    start = threading.Timer(1.0, postgres.start)
    start.start()
    tell(outer, running)
    start.join()
    asked(outer)
    again = outer_loop(database)
    assert [row["status"] for row in again.trials()] == ["completed"] * 2 + ["running"]
    assert again.trials() == outer.trials() and measured(again) == measured(outer)


def test_a_server_that_stays_away_ends_the_launch_and_the_next_one_goes_on(
    postgres: PostgresServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    database = database_of(postgres, tmp_path, patience=1)
    outer = outer_loop(database)
    first, second = asked(outer), asked(outer)
    tell(outer, first)
    postgres.stop()
    try:
        with pytest.raises(ShapetuneError, match=r"(?s)database postgresql.*same command to resume; nothing") as ended:
            tell(outer, second)
    finally:
        postgres.start()
    said = "".join(traceback.format_exception(ended.value)) + capfd.readouterr().err
    assert "is lost; trying again for 1 s" in said and PASSWORD not in said
    again = outer_loop(database)
    assert [row["status"] for row in again.trials()] == ["completed", "running"]
    assert asked(again) == second


@pytest.mark.parametrize("what", ["password", "port", "database"])
def test_a_database_that_never_let_one_in_is_refused_at_once(
    what: str, postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make_url(postgres.url(postgres.new_database()))
    if what == "password":
        monkeypatch.setenv("PGPASSWORD", "wrong-" + PASSWORD)
    url = url.set(**{"port": {"port": 9}, "database": {"database": "missing"}}.get(what, {}))
    attempts: list[Any] = []
    database = Database(url, 300, tmp_path / "identity")
    monkeypatch.setattr(Store, "_announce", lambda *state: attempts.append(state))
    for begin in (lambda: outer_loop(database), lambda: locked(database, "study").__enter__()):
        with pytest.raises(ShapetuneError, match=r"(?s)database postgresql.*PGPASSWORD") as refused:
            begin()
        assert PASSWORD not in "".join(traceback.format_exception(refused.value))
    assert attempts == []


def test_a_statement_that_fails_shows_no_values(postgres: PostgresServer, tmp_path: Path) -> None:
    database = database_of(postgres, tmp_path)

    def work(connection: Any) -> None:
        connection.execute(text("SELECT CAST(:secret AS integer)"), {"secret": PASSWORD})

    def missing(connection: Any) -> None:
        connection.execute(text("SELECT :secret FROM nothing"), {"secret": PASSWORD})

    with pytest.raises(ShapetuneError) as refused:
        Store(database, "study")._step(missing)
    assert PASSWORD not in "".join(traceback.format_exception(refused.value))
    assert 'relation "nothing" does not exist' in refused.value.message


def test_tables_are_made_by_two_at_once(postgres: PostgresServer, tmp_path: Path) -> None:
    database, errors = database_of(postgres, tmp_path), []
    barrier = threading.Barrier(4)

    def make() -> None:
        engine = make_engine(database)
        try:
            with engine.begin() as connection:
                barrier.wait()
                prepare(connection, database)
        except Exception as error:
            errors.append(error)
        finally:
            engine.dispose()

    threads = [threading.Thread(target=make) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert errors == []
    assert row_counts(database)["trial_v2"] == 0
