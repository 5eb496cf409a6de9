"""What ``shapetune status --storage`` says of a database's studies, on a machine that has none of their folders."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from rich.console import Console

from pipeline.cli import _run
from pipeline.storage.database import Database, locked
from pipeline.study.database_status import STATES, read_stored_status, read_stored_studies
from shaping.errors import ConfigError
from tests.support.searches import outer_loop, row_counts
from tests.support.servers.databases import REASON, VALUES, database_of, fill, url_of
from tests.support.servers.postgres import PASSWORD, PostgresServer


@pytest.fixture(autouse=True)
def wide_console(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.cli.console", Console(width=250, highlight=False))


@pytest.fixture
def database(postgres: PostgresServer, tmp_path: Path) -> Database:
    return database_of(postgres, tmp_path)


def test_every_state_stands_in_the_rows(database: Database) -> None:
    fill(database)
    found = read_stored_status(url_of(database), "study")
    assert json.loads(json.dumps(found)) == found and found["running"] is None
    rows = found["trials"]
    assert [row["state"] for row in rows] == ["completed", "completed", "failed", "stopped", "running"]
    assert [row["origin"] for row in rows] == ["earlier study", "baseline", "baseline", "baseline", "sobol"]
    assert [row["arm"] for row in rows][:4] == ["old 2", "sparse", "prefix", "shapley"]
    expected = outer_loop(database, objective="gain").trials()
    assert [row["shape"] for row in rows] == [row["shape"] for row in expected]
    measured = rows[1]
    # As it was measured, although the search models gains.
    assert (measured["J"], measured["kl_nats"]) == (fmean(VALUES.values()), 4.0)
    assert measured["J_standard_error"] == pytest.approx(stdev(VALUES.values()) / 2**0.5)
    assert rows[2]["reason"] == REASON.replace("\x1b", " ") and rows[2]["J"] is None
    assert (rows[3]["projected_J"], rows[3]["projected_J_deviation"], rows[3]["J"]) == (-0.125, 0.0625, None)
    assert rows[3]["reason"] == "stopped on its way to J -0.125 ± 0.062"
    assert len({frozenset(row) for row in rows}) == 1


def test_states_are_axs() -> None:
    from ax.core.trial_status import TrialStatus

    ours = {"failed": {"FAILED", "ABANDONED"}, "completed": {"COMPLETED"}}
    ours |= {"running": {"RUNNING"}, "stopped": {"EARLY_STOPPED"}}
    assert all(TrialStatus(number).name in ours[state] for number, state in STATES.items())


def test_a_reader_who_may_only_select_sees_who_runs_a_study(
    database: Database, postgres: PostgresServer, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(database)
    name = str(database.url.database)
    postgres.execute(
        "DROP ROLE IF EXISTS select_only",
        f"CREATE ROLE select_only LOGIN PASSWORD '{PASSWORD}'",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO select_only",
        database=name,
    )
    url = postgres.url(name, user="select_only")
    with locked(database, "study"):
        assert _run(["status", "study", "--storage", url, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["running"] == {"host": socket.gethostname(), "process": os.getpid()}
        assert read_stored_studies(url)[0]["running"] == found["running"]
    postgres.execute(
        "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM select_only", "DROP ROLE select_only", database=name
    )


def test_the_table_says_what_stands_in_the_rows_and_nothing_that_moves_a_terminal(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(database)
    assert _run(["status", "study", "--storage", url_of(database)]) == 0
    said = capsys.readouterr().out
    assert "+0.500 ± 0.250" in said and "nan: loss [/red] is nan  [31m" in said and "\x1b" not in said
    assert "best observed J so far: +1.500, trial 0" in said and said.rstrip().endswith("not running")


def test_the_studies_of_a_database_are_listed(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = url_of(database)
    assert read_stored_studies(url) == []
    before = dict.fromkeys(row_counts(database))
    assert before == {}
    fill(database)
    outer_loop(Database(database.url), name="another")
    another, study = read_stored_studies(url)
    assert another["study"] == "another" and sum(another["trials"].values()) == 0 and another["best_J"] is None
    assert study["trials"] == {"completed": 2, "stopped": 1, "failed": 1, "running": 1} and study["best_J"] == 1.5
    assert study["begun_by"]["folder"] == str(tmp_path) and study["running"] is None
    assert _run(["status", "--storage", url]) == 0
    assert "2 completed, 1 stopped, 1 failed, 1 running" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(ConfigError, match=r"(?s)holds no study 'studi'.*lists those"):
        read_stored_status(url, "studi")


def test_what_somebody_else_wrote_into_the_database_breaks_nothing(
    database: Database, postgres: PostgresServer
) -> None:
    fill(database)
    name = str(database.url.database)
    postgres.execute(
        """UPDATE trial_v2 SET status = 99, run_metadata = '{"shape": {"weights": "x"}, "origin": ["\x1b"]}'""",
        "UPDATE data_v2 SET data_json = '[1, {'",
        "UPDATE experiment_v2 SET properties = '[]'",
        database=name,
    )
    rows = read_stored_status(url_of(database), "study")["trials"]
    assert {row["state"] for row in rows} == {"unknown"} and {row["shape"] for row in rows} == {None}
    assert "\x1b" not in str([row["origin"] for row in rows])
    [study] = read_stored_studies(url_of(database))
    assert study["begun_by"] == {"user": "", "host": "", "folder": ""}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["status"], ["needs a study", "--storage"]),
        (["status", "x", "--storage", "postgresql://u:hidden@h/d"], ["--storage", "u:***@h/d", "PGPASSWORD"]),
        (["status", "x", "--storage", "postgresql://u@127.0.0.1:9/d"], ["127.0.0.1:9/d", "failed", "server runs"]),
    ],
)
def test_what_cannot_be_read_is_refused(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(arguments) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words) and "hidden" not in said


def test_reading_a_database_loads_no_optimizer() -> None:
    probe = "import sys, pipeline.study.database_status; print(sorted({'ax', 'botorch', 'ray'} & set(sys.modules)))"
    done: Any = subprocess.run(
        [sys.executable, "-c", probe], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
