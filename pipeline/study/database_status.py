"""The studies of a database and their trials as they stand, read from the database alone: on any machine.

Plain SQL without Ax: nothing that a database holds is run here, and a reader's role needs to select only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Row, inspect, text
from sqlalchemy.exc import DBAPIError

from pipeline.config.database_url import check_url
from pipeline.storage.database import Database, make_engine, readable_error
from pipeline.storage.keys import (
    DEVIATION,
    IDENTITY,
    OBJECTIVE,
    ORIGIN,
    PROJECTED,
    REASON,
    SEED,
    SHAPE,
    TAKEN_OVER,
    TRAINER,
    plain_text,
)
from pipeline.storage.lock import Holder, find_holders, lock_key
from pipeline.study.status import UNKNOWN, tried
from pipeline.trials.records import TrialState
from pipeline.trials.statistics import mean_and_error
from search_spaces.base import Value
from shaping.errors import ConfigError
from shaping.shape import Shape

# Ax's numbers for the states that a trial of a study can be in.
SHOWN = (TrialState.COMPLETED, TrialState.STOPPED, TrialState.FAILED, TrialState.RUNNING)
STATES = {
    2: TrialState.FAILED,
    3: TrialState.COMPLETED,
    4: TrialState.RUNNING,
    5: TrialState.FAILED,
    7: TrialState.STOPPED,
}
TRIALS = """
SELECT trial_v2.index AS number, trial_v2.status, trial_v2.run_metadata,
trial_v2.abandoned_reason, trial_v2.failed_reason,
(SELECT min(arm_v2.name) FROM arm_v2 JOIN generator_run_v2 ON arm_v2.generator_run_id = generator_run_v2.id
 WHERE generator_run_v2.trial_id = trial_v2.id) AS arm
FROM trial_v2 WHERE experiment_id = :experiment ORDER BY trial_v2.index
"""


def read_stored_status(url: str, name: str) -> dict[str, Any]:
    """Return a study as its database holds it.

    Args:
        url: The database's address.
        name: The study's name in it.

    Returns:
        ``study``; ``running``, the host and process that run it, or ``None``; and ``trials``, rows like those of
        ``pipeline.study.status.read_status``. Their J is what the search was told: the mean over its seeds.

    Raises:
        ConfigError: The address cannot be used, or the database holds no such study.
        ShapetuneError: The database cannot be reached or read.
    """
    with _reading(url) as (connection, database):
        studies = [row for row in _studies(connection) if row.name == name]
        if not studies:
            raise ConfigError(
                f"{database.shown} holds no study {name!r}", "shapetune status --storage URL lists those that it holds"
            )
        return {
            "study": name,
            "running": _running(find_holders(connection).get(lock_key(name))),
            "trials": _trials(connection, studies[0].id),
        }


def read_stored_studies(url: str) -> list[dict[str, Any]]:
    """Return the studies of a database by name: trials in each state, the best J, who runs it, who began it where.

    Raises:
        ConfigError: The address cannot be used.
        ShapetuneError: The database cannot be reached or read.
    """
    with _reading(url) as (connection, _):
        holders, found = find_holders(connection), []
        for study in _studies(connection):
            rows = _trials(connection, study.id)
            measured = [row["J"] for row in rows if row["J"] is not None]
            began = _mapping(study.properties).get(IDENTITY) or {}
            found.append(
                {
                    "study": plain_text(study.name),
                    "trials": {state: _count(rows, state) for state in SHOWN},
                    "best_J": max(measured, default=None),
                    "running": _running(holders.get(lock_key(study.name))),
                    "begun_by": {key: plain_text(str(began.get(key, ""))) for key in ("user", "host", "folder")},
                }
            )
    return found


@contextmanager
def _reading(url: str) -> Iterator[tuple[Connection, Database]]:
    database = Database(check_url(url, "--storage"))
    engine = make_engine(database)
    try:
        # One moment's view of all tables.
        with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection, connection.begin():
            yield connection, database
    except DBAPIError as error:
        raise readable_error(error, database) from error
    finally:
        engine.dispose()


def _studies(connection: Connection) -> list[Row[Any]]:
    if not inspect(connection).has_table("experiment_v2"):
        return []
    return list(connection.execute(text("SELECT id, name, properties FROM experiment_v2 ORDER BY name")))


def _trials(connection: Connection, experiment: int) -> list[dict[str, Any]]:
    values: dict[int, dict[str, float]] = {}
    for row in connection.execute(
        text("SELECT trial_index, data_json FROM data_v2 WHERE experiment_id = :experiment"), {"experiment": experiment}
    ):
        values.setdefault(row.trial_index, {}).update(_values(row.data_json))
    rows = connection.execute(text(TRIALS), {"experiment": experiment})
    return [_row(row, values.get(row.number, {})) for row in rows]


def _values(data: str) -> dict[str, float]:
    """Return metric to value of one trial's data: a table by column, as Ax keeps it."""
    table = _mapping(data)
    names, means = _mapping(table.get("metric_name")), _mapping(table.get("mean"))
    return {
        str(name): float(means[key])
        for key, name in names.items()
        if isinstance(means.get(key), int | float) and math.isfinite(means[key])
    }


def _row(trial: Row[Any], values: Mapping[str, float]) -> dict[str, Any]:
    about, state = _mapping(trial.run_metadata), STATES.get(trial.status, "unknown")
    reason = about.get(REASON) or trial.abandoned_reason or trial.failed_reason or ""
    row = {
        "index": trial.number,
        "arm": plain_text(trial.arm or ""),
        "origin": plain_text(str(about.get(ORIGIN, ""))),
        **tried(_shape(about.get(SHAPE)), _settings(about.get(TRAINER))),
        **UNKNOWN,
        "state": state,
        "taken_over": bool(about.get(TAKEN_OVER)),
        "reason": plain_text(str(reason)),
    }
    if state == TrialState.COMPLETED:
        seeds = [value for name, value in values.items() if name.startswith(SEED)]
        mean, error = mean_and_error(seeds) if seeds else (values.get(OBJECTIVE), None)
        row |= {"J": mean, "J_standard_error": error, "kl_nats": values.get("kl_nats")}
    elif state == TrialState.STOPPED and PROJECTED in values:
        mean, deviation = values[PROJECTED], values.get(DEVIATION, 0.0)
        row |= {"projected_J": mean, "projected_J_deviation": deviation}
        row |= {"reason": f"stopped on its way to J {mean:+.3f} ± {deviation:.3f}"}
    return row


def _shape(value: Any) -> dict[str, Any] | None:
    """Return a shape that can be shown; ``None`` for what is none."""
    try:
        return Shape.from_dict(value).to_dict() if isinstance(value, dict) else None
    except (ConfigError, TypeError, KeyError, AttributeError):
        return None


def _settings(value: Any) -> dict[str, Value]:
    """Return settings of a trainer that can be shown: other programs may have written what the database holds."""
    found = value.items() if isinstance(value, dict) else ()
    return {
        plain_text(str(name)): plain_text(each) if isinstance(each, str) else each
        for name, each in found
        if isinstance(each, int | float | str)
    }


def _mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, dict) else {}


def _running(holder: Holder | None) -> dict[str, Any] | None:
    return None if holder is None else {"host": plain_text(holder.host), "process": holder.process}


def _count(rows: list[dict[str, Any]], state: str) -> int:
    return sum(row["state"] == state for row in rows)


def who_runs(running: Mapping[str, Any] | None) -> str:
    """Return in words who runs a study."""
    return "not running" if running is None else f"runs on {running['host']}, process {running['process']}"
