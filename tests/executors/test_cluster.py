"""A study on a Ray cluster of several nodes: one is lost, another joins, and strangers stay out."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from pipeline.study.progress import read_progress
from pipeline.trials.failures import NODE_LOST, OUT_OF_MEMORY, WORKER_DIED
from shaping.errors import ConfigError
from tests.support import slow_trainer
from tests.support.launches import found
from tests.support.servers.clusters import Cluster, Node, free_port
from tests.support.servers.commands import Command
from tests.support.waiting import wait_until

# Steps take their time while runs are held up, as a worker reports every second, which tells where it runs.
TRIALS, STEPS, SLOTS, SECONDS = 6, 16, 4, 0.75
TOLD_STEPS = 4


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head that runs no trials, and no node yet."""
    with Cluster() as cluster:
        yield cluster


def write_config(folder: Path, held: bool = False, **executor: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if held:
        (folder / "hold").touch()
    options = {"seconds": SECONDS if executor.get("name") == "ray" else 0.0, "log": str(folder / "steps.log")}
    options["hold"] = str(folder / "hold")
    values = {
        "name": "s",
        "trainer": {"function": f"{slow_trainer.__file__}:train", "options": options},
        "space": {"methods": ["prefix", "attention"]},
        "ppo": {"steps": STEPS},
        # Sobol's points alone: what is tried does not depend on the order in which results come.
        "search": {"trials": TRIALS, "sobol_trials": TRIALS, "seeds": [0]},
        "confirm": {"seeds": [100]},
        "executor": executor,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def launch(config: Path, **variables: str) -> Command:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    home = config.parent / "home"
    home.mkdir(exist_ok=True)
    environment = {**kept, "HOME": str(home), "COLUMNS": "200", **variables}
    return Command("launch", str(config), "--studies", str(config.parent / "studies"), environment=environment)


def made(config: Path) -> list[tuple[str, int, int]]:
    """Each step that was made: its run, its number, and the process that made it."""
    log = config.parent / "steps.log"
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return [(f"{run} {seed}", int(step), int(process)) for run, seed, step, process in lines]


def workers_of(config: Path) -> set[int]:
    return {worker for *_, worker in made(config)}


def a_run_in_the_middle(config: Path, node: Node) -> str | None:
    """A run that a node's worker has told of, and that has some way to go."""
    steps, progress = made(config), read_progress(config.parent / "studies" / "s" / "progress.json")
    told = {f"trials/{run.index} {run.seed}" for run in (progress.runs if progress else ()) if run.done_steps}
    for worker in pids(node) & {process for *_, process in steps}:
        mine = [(run, step) for run, step, process in steps if process == worker]
        run, step = mine[-1]
        if run in told and sum(each == run for each, _ in mine) >= TOLD_STEPS and step < STEPS - 3:
            return run
    return None


def pids(node: Node) -> set[int]:
    return {process.pid for process in node.processes()}


def noted(config: Path) -> dict[str, list[str]]:
    """The reasons of each run's failed attempts."""
    study = config.parent / "studies" / "s"
    files = {path: path.read_text().splitlines() for path in study.glob("*/*/failures-*.jsonl")}
    return {
        f"{path.parent.parent.name}/{path.parent.name} {path.stem.rpartition('-')[2]}": [
            json.loads(line)["reason"] for line in lines
        ]
        for path, lines in files.items()
    }


@pytest.mark.slow
def test_a_study_that_loses_a_node_ends_like_one_that_lost_none(cluster: Cluster, tmp_path: Path) -> None:
    quiet = write_config(tmp_path / "quiet", name="local")
    alone = launch(quiet)
    assert alone.wait() == 0, alone.printed()

    first, second = cluster.add(SLOTS // 2), cluster.add(SLOTS // 2)
    config = write_config(tmp_path / "disturbed", True, name="ray", slots=SLOTS, address=cluster.address)
    process = launch(config, RAY_AUTH_TOKEN=cluster.token)

    def wait(condition: Callable[[], Any], what: str) -> Any:
        return wait_until(condition, what, process=process, log=lambda: process.printed())

    try:
        lost = wait(lambda: a_run_in_the_middle(config, first), "a node has told of a run that has some way to go")
        wait(lambda: pids(second) & workers_of(config), "the other node makes steps, too")
        doomed = pids(first)
        first.kill()
        third = cluster.add(SLOTS // 2)
        wait(lambda: pids(third) & workers_of(config), "the node that joined makes steps")
        stayed, joined = pids(second), pids(third)
        (config.parent / "hold").unlink()
        process.wait()
    finally:
        process.kill()
    assert process.returncode == 0 and "Traceback" not in process.printed(), process.printed()

    assert found(config) == found(quiet)
    reasons = noted(config)
    assert reasons[lost] == [NODE_LOST], (reasons, process.printed())
    # A worker that had not told yet where it runs may be taken for one that died alone.
    assert {reason for each in reasons.values() for reason in each} <= {NODE_LOST, WORKER_DIED}
    assert f"after {NODE_LOST}: node " in process.printed()

    steps = made(config)
    workers = workers_of(config)
    assert workers & doomed and workers & stayed and workers & joined
    # What ran there went on where it stood: at most the step that each of them was in is made again.
    repeated = Counter((run, step) for run, step, _ in steps)
    assert max(repeated.values()) <= 2
    assert sum(count - 1 for count in repeated.values()) <= len(workers & doomed)
    began = [step for run, step, worker in steps if run == lost and worker not in doomed]
    assert began and began[0] >= TOLD_STEPS - 1


@pytest.mark.slow
def test_a_worker_that_ray_kills_for_its_memory_is_called_so(tmp_path: Path) -> None:
    strict = {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "500"}
    with Cluster(strict, cpus=1) as cluster:
        config = write_config(tmp_path, True, name="ray", slots=1, address=cluster.address, retries=0)
        process = launch(config, RAY_AUTH_TOKEN=cluster.token)
        try:
            reasons = wait_until(lambda: noted(config), "a run fails", process=process, log=lambda: process.printed())
        finally:
            process.kill()
            process.wait()
    assert {reason for each in reasons.values() for reason in each} == {OUT_OF_MEMORY}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "it wants a token"),
        ({"RAY_AUTH_MODE": "disabled"}, "it wants a token"),
        ({"RAY_AUTH_TOKEN": "0" * 64}, "the given token is wrong"),
        ({"RAY_AUTH_MODE": "token"}, "there is no token"),
    ],
)
def test_a_cluster_by_address_wants_its_token(
    cluster: Cluster, variables: dict[str, str], said: str, tmp_path: Path
) -> None:
    config = write_config(tmp_path, name="ray", slots=1, address=cluster.address)
    refused = launch(config, **variables)
    assert refused.wait() == 2
    errors = refused.printed()
    assert said in errors and "RAY_AUTH_TOKEN" in errors and "Traceback" not in errors
    # Ray itself would ask again and again, a line each.
    assert "InvalidAuthToken" not in errors


@pytest.mark.slow
def test_a_ray_of_the_studys_own_lets_nobody_in(tmp_path: Path) -> None:
    config = write_config(tmp_path / "own", True, name="ray", slots=1)
    process = launch(config)
    try:
        wait_until(lambda: made(config), "a step is made", process=process, log=lambda: process.printed())
        children = psutil.Process(process.pid).children(recursive=True)
        address = next(
            word.partition("=")[2]
            for child in children
            for word in child.cmdline()
            if word.startswith(("--gcs-address=", "--gcs_address="))
        )
        tokens = {child.environ().get("RAY_AUTH_TOKEN") for child in children if child.pid in workers_of(config)}
        for index, variables in enumerate(({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "0" * 64})):
            stranger = launch(write_config(tmp_path / str(index), name="ray", slots=1, address=address), **variables)
            assert stranger.wait() == 2
            assert "the cluster refuses" in stranger.printed()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    (token,) = tokens
    assert token is not None and len(token) == 64
    written = [path for path in config.parent.rglob("*") if path.is_file()]
    assert (config.parent / "studies" / "s" / "study.yaml") in written
    assert not [path for path in written if token.encode() in path.read_bytes()]
    assert not list(config.parent.glob("home/.ray/auth_token"))


def test_nothing_is_waited_for_where_nothing_listens_and_no_token_is_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.executors.ray_tune import RayTuneExecutor
    from tests.support.list_source import ListSource

    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    with pytest.raises(ConfigError, match=r"executor\.address = 127.*could not be reached"):
        RayTuneExecutor(1, f"127.0.0.1:{free_port()}").run(ListSource([]))
    assert "RAY_AUTH_TOKEN" not in os.environ
