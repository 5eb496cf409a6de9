"""A client of Ax that answers about a search and keeps nothing: for notebooks, and as a file for other machines."""

from __future__ import annotations

import json
from typing import Any

from ax.api.client import Client
from ax.core.trial_status import TrialStatus
from ax.exceptions.core import AxError
from ax.storage.sqa_store.load import load_experiment
from ax.utils.common.random import with_rng_seed
from sqlalchemy import make_url

from pipeline.config.settings import SearchSettings
from pipeline.runtime.logging import quiet_libraries
from pipeline.search import ax_patches
from pipeline.search.ax_patches import snapshot_of
from pipeline.search.generation_strategy import discrete_points, model_strategy
from pipeline.search.observations import Observations
from pipeline.search.store import sessions_join
from pipeline.storage.database import Database, make_engine
from pipeline.storage.keys import SEED
from shaping.errors import ShapetuneError

# What a Gaussian process needs before it says anything.
LEAST_COMPLETED = 2


def detached(experiment: Any, model: str = "gp") -> Client:
    """Return a client whose model is fitted to all data of an experiment: it predicts, analyses and proposes.

    It has no database, so that nothing that it is told or asked reaches the study.

    Args:
        experiment: Ax's, in memory.
        model: ``gp`` or ``saasbo``.

    Raises:
        ShapetuneError: The model cannot be fitted, as with too few trials.
    """
    completed = len(experiment.trial_indices_by_status[TrialStatus.COMPLETED])
    if completed < LEAST_COMPLETED:
        raise ShapetuneError(
            f"{completed} of the search's trials completed: no model can be fitted yet",
            f"wait until {LEAST_COMPLETED} trials have completed; shapetune status shows them",
        )
    client, strategy = Client(), model_strategy(model, discrete_points(experiment))
    with quiet_libraries(), with_rng_seed(0):
        client.set_experiment(experiment)
        client.set_generation_strategy(strategy)
        try:
            # Makes a point and begins no trial: it is how a strategy fits its model.
            strategy.gen(experiment=experiment, n=1, num_trials=1)
        except (AxError, ValueError, RuntimeError) as error:
            raise ShapetuneError(f"the search's model cannot be fitted: {error}", "wait for more trials") from error
    return client


def detached_from_database(url: str, name: str) -> Client:
    """Return the client of a study that a database holds, without its folder; the database is only read.

    Args:
        url: The database's address, checked.
        name: The study's name in it.

    Raises:
        ShapetuneError: The model cannot be fitted.
    """
    ax_patches.install()
    engine = make_engine(Database(make_url(url)))
    try:
        with quiet_libraries(), engine.connect() as connection, sessions_join(connection):
            experiment = load_experiment(name)
            connection.rollback()
    finally:
        engine.dispose()
    seeds = sorted(int(metric.removeprefix(SEED)) for metric in experiment.metrics if metric.startswith(SEED))
    Observations(experiment, SearchSettings(seeds=tuple(seeds))).refresh()
    return detached(experiment)


def snapshot(client: Client) -> str:
    """Return a client as JSON that ``ax.api.client.Client.load_from_json_file`` reads, without this project."""
    return json.dumps(snapshot_of(client))
