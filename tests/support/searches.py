"""Searches of made-up values: asked, told, ended in every way, and what their database then holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, inspect, text

from pipeline.config.settings import SearchSettings
from pipeline.search.early_stopping import Projection
from pipeline.search.outer_loop import OuterLoop
from pipeline.search.proposal import Proposal
from pipeline.storage.database import Database
from search_spaces import StudySpace, make_space
from shaping.shape import Shape

SPACE = StudySpace(make_space("credit_mix", base=Shape(), methods=("prefix", "shapley")))
# 3 baselines, 1 space-filling trial, then the model's.
SEARCH = {"trials": 6, "sobol_trials": 1, "seeds": (0, 1)}


def made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def outer_loop(database: Database | None, *more: Any, name: str = "study", **search: Any) -> OuterLoop:
    return OuterLoop(name, SPACE, database, SearchSettings(**{**SEARCH, **search}), *more)


def tell(outer: OuterLoop, proposal: Proposal) -> None:
    values = {seed: proposal.shape.weights["prefix"] - 0.1 * seed + proposal.shape.gae_lambda for seed in (0, 1)}
    outer.tell(proposal.index, values, {"kl_nats": 3.0 + proposal.shape.gae_lambda})


def asked(outer: OuterLoop) -> Proposal:
    proposal = outer.ask()
    assert proposal is not None
    return proposal


def measured(outer: OuterLoop) -> list[tuple[Any, ...]]:
    """Everything that was told, in an order of its own."""
    frame = outer._experiment.lookup_data().df
    return sorted((row.trial_index, row.metric_name, row.mean) for row in frame.itertuples())


def row_counts(database: Database) -> dict[str, int]:
    engine = create_engine(database.url)
    with engine.connect() as connection:
        tables = inspect(engine).get_table_names()
        found = {name: connection.execute(text(f"SELECT count(*) FROM {name}")).scalar_one() for name in tables}
    engine.dispose()
    return found


def ended_in_every_way(outer: OuterLoop) -> None:
    tell(outer, asked(outer))
    outer.fail(asked(outer).index, "nul \0, half a pair \udcff, 日本語 " + "x" * 300)
    outer.stop(asked(outer).index, Projection(0.25, 0.125))
    asked(outer)
