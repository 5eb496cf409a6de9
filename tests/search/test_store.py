"""What a study's database must do, on SQLite and on a PostgreSQL server alike."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from pipeline.config.settings import ConstraintSettings, StorageSettings
from pipeline.search.proposal import EarlierTrial, Proposal
from pipeline.search.store import Store
from pipeline.storage.database import IDENTITY_FILE, Database, sqlite_file, study_database
from shaping.errors import ConfigError, ShapetuneError
from tests.support.searches import SPACE, asked, ended_in_every_way, made, measured, outer_loop, row_counts, tell

Databases = Callable[[str], Database]


# Of what a Gaussian process proposes, between processes.
ROUNDING = 1e-4


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def databases(request: pytest.FixtureRequest, tmp_path: Path) -> Databases:
    """Makes the database of a study's folder; studies share it where databases are shared."""
    if request.param == "sqlite":
        return lambda folder: study_database(StorageSettings(), made(tmp_path / folder))
    server = request.getfixturevalue("postgres")
    settings = StorageSettings(url=server.url(server.new_database()), patience_seconds=0)
    return lambda folder: study_database(settings, made(tmp_path / folder))


def assert_same(ours: Proposal, theirs: Proposal) -> None:
    """Two processes multiply matrices that lie differently in memory: some processors round them differently then."""
    assert (ours.index, ours.arm, ours.origin) == (theirs.index, theirs.arm, theirs.origin)
    assert dict(ours.shape.weights) == pytest.approx(dict(theirs.shape.weights), abs=ROUNDING)
    assert ours.shape.gae_lambda == pytest.approx(theirs.shape.gae_lambda, abs=ROUNDING)
    same = {"weights": {"sparse": 1.0}, "gae_lambda": 1.0}
    assert ours.shape.with_changes(**same) == theirs.shape.with_changes(**same)


def test_a_search_in_many_processes_proposes_what_one_in_memory_does(databases: Databases) -> None:
    whole, expected = outer_loop(None), []
    while (proposal := whole.ask()) is not None:
        expected.append(proposal)
        tell(whole, proposal)
    database, found = databases("a"), []
    for _ in range(len(expected)):
        # A kill while the trial runs, and one after it.
        first = asked(outer_loop(database))
        outer = outer_loop(database)
        again = asked(outer)
        assert again == first
        found.append(again)
        tell(outer, again)
    assert [each.origin for each in found] == ["baseline"] * 3 + ["sobol"] + ["model"] * 2
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(ours, theirs)
    end = outer_loop(database)
    assert end.finished()
    for (*place, ours), (*same, theirs) in zip(measured(end), measured(whole), strict=True):
        assert place == same and ours == pytest.approx(theirs, abs=ROUNDING)
    assert [(row.index, row.mean) for row in end.ranking()] == [
        (row.index, pytest.approx(row.mean)) for row in whole.ranking()
    ]


def test_every_kind_of_end_comes_back(databases: Databases) -> None:
    limits = ConstraintSettings(kl_nats=9.5, certificate_error=0.5)
    loops = [outer_loop(database, constraints=limits) for database in (None, databases("a"))]
    for outer in loops:
        ended_in_every_way(outer)
    again = outer_loop(databases("a"), constraints=limits)
    assert [row["status"] for row in again.trials()] == ["completed", "abandoned", "early_stopped", "running"]
    assert again.trials() == loops[0].trials() == loops[1].trials()
    assert measured(again) == measured(loops[0]) and len(measured(again)) == 4 + 3
    reason = again._experiment.trials[1].status_reason
    assert len(reason) == 100 and reason.startswith("nul  , half a pair  , 日本語 xxx")
    assert len(again._experiment.trials[1].run_metadata["reason"]) > 300
    constraints = again._experiment.optimization_config.outcome_constraints
    assert sorted(str(each) for each in constraints) == sorted(
        str(each) for each in loops[0]._experiment.optimization_config.outcome_constraints
    )
    assert len(constraints) == 2
    assert asked(again) == again.proposal(3)


def test_everything_is_written_once(databases: Databases, tmp_path: Path) -> None:
    reference, database = sqlite_file(tmp_path / "reference.db"), databases("a")
    for each in (reference, database):
        ended_in_every_way(outer_loop(each))
        outer = outer_loop(each)
        tell(outer, asked(outer))
    counts = row_counts(database)
    assert counts == row_counts(reference)
    assert (counts["experiment_v2"], counts["generation_strategy"], counts["trial_v2"]) == (1, 1, 4)
    assert counts["data_v2"] == counts["generator_run_v2"] == counts["trial_v2"]


def test_trials_that_were_taken_over_come_back_as_such_whatever_their_names(databases: Databases) -> None:
    tried = SPACE.decode({"weight_prefix": 0.5, "weight_shapley": 0.25, "gae_lambda": 0.8})
    earlier = [EarlierTrial("größer 日本 'x\" 2", tried, {0: 1.0, 1: 2.0}, {"kl_nats": 3.0})]
    outer_loop(databases("a"), earlier)
    again = outer_loop(databases("a"), earlier)
    [row] = again.trials()
    assert (row["arm"], row["origin"], row["status"]) == (earlier[0].arm, "earlier study", "completed")
    assert again._own() == [] and again._observations.by_seed() == {0: {0: 1.0, 1: 2.0}}
    assert asked(again).index == 1


def test_more_trials_go_on_where_the_search_ended(databases: Databases) -> None:
    outer = outer_loop(databases("a"), trials=3)
    while (proposal := outer.ask()) is not None:
        tell(outer, proposal)
    assert outer.finished()
    more = outer_loop(databases("a"), trials=4)
    assert not more.finished() and asked(more).index == 3


def test_studies_side_by_side_do_not_mix(databases: Databases) -> None:
    loops = {name: outer_loop(databases(name), name=name) for name in ("one", "two")}
    for count in (1, 2):
        for name in ("one", "two")[:count]:
            tell(loops[name], asked(loops[name]))
    assert {name: len(outer_loop(databases(name), name=name).trials()) for name in loops} == {"one": 2, "two": 1}


def test_a_study_goes_on_in_a_folder_that_was_moved_and_in_no_other(databases: Databases, tmp_path: Path) -> None:
    first = databases("mine")
    tell(outer := outer_loop(first), asked(outer))
    shutil.copytree(tmp_path / "mine", tmp_path / "moved")
    assert len(outer_loop(databases("moved")).trials()) == 1
    if first.shared:
        with pytest.raises(ConfigError, match=r"(?s)another folder, begun by .* in .*/mine\n.*change name") as refused:
            outer_loop(databases("theirs"))
        assert "study 'study'" in str(refused.value)
        assert len(outer_loop(first).trials()) == 1


def test_a_database_that_lost_the_study_is_not_begun_anew(databases: Databases, tmp_path: Path) -> None:
    database = databases("mine")
    tell(outer := outer_loop(database), asked(outer))
    if database.shared:
        elsewhere = Database(sqlite_file(tmp_path / "other.db").url, 0, tmp_path / "mine" / IDENTITY_FILE)
    else:
        (tmp_path / "mine" / "study.db").write_bytes(b"")
        elsewhere = database
    with pytest.raises(ConfigError, match=r"(?s)holds no study 'study', but this folder's.*put a copy"):
        outer_loop(elsewhere)


def test_a_launch_that_died_before_the_study_was_in_the_database_begins_it(databases: Databases) -> None:
    database = databases("mine")

    def die() -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(database, "study").open(die)
    assert asked(outer_loop(database)).index == 0


def test_a_file_of_a_version_that_did_not_ask_whose_it_is_is_taken(tmp_path: Path) -> None:
    tell(outer := outer_loop(sqlite_file(tmp_path / "study.db")), asked(outer))
    engine = create_engine(f"sqlite:///{tmp_path / 'study.db'}")
    with engine.begin() as connection:
        connection.execute(text("UPDATE experiment_v2 SET properties = '{}'"))
    engine.dispose()
    again = outer_loop(study_database(StorageSettings(), tmp_path))
    assert len(again.trials()) == 1 and asked(again).index == 1


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"study": 1'])
def test_an_identity_that_cannot_be_read_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / IDENTITY_FILE).write_text(content)
    with pytest.raises(ConfigError, match=r"database\.json is not what shapetune writes"):
        outer_loop(study_database(StorageSettings(), tmp_path))


def test_a_damaged_file_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    database = study_database(StorageSettings(), tmp_path)
    tell(outer := outer_loop(database), asked(outer))
    outer._store.close()
    file = tmp_path / "study.db"
    half = file.read_bytes()[:20_000]
    file.write_bytes(half)
    with pytest.raises(ShapetuneError, match=r"(?s)study's database .*study\.db: .*put a copy of it back"):
        outer_loop(database)
    assert file.read_bytes() == half


def test_no_name_is_needed_of_whoever_begins_a_study(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr("getpass.getuser", nameless)
    assert asked(outer_loop(databases("a"))).index == 0
