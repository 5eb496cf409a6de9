"""One contract for every executor: the same source, run in this process and under Ray Tune."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.executors.local import LocalExecutor
from pipeline.trials.arm import Arm
from pipeline.trials.types import Job
from shaping.errors import ShapetuneError
from tests.support.list_source import ListSource
from tests.support.studies import tiny_config

EXECUTORS = ["local", pytest.param("ray", marks=pytest.mark.slow)]


def jobs(folder: Path, assets: Path) -> list[Job]:
    """Four jobs, of which the third leaves its KL limit at once."""
    good, bad = tiny_config(), tiny_config(ppo={"steps": 2, "batch_size": 4, "kl_limit_nats": 1e-9})
    shape = good.base_shape()
    return [
        Job(
            index=index,
            folder=str(folder / str(index)),
            arm=Arm(f"arm {index}", shape.with_changes(weights={method: 1.0})).to_dict(),
            seeds=(0, 1),
            config=(bad if index == 2 else good).model_dump(mode="json"),
            assets=str(assets),
        )
        for index, method in enumerate(("sparse", "prefix", "uniform", "shapley"))
    ]


def stopping_jobs(folder: Path, assets: Path) -> list[Job]:
    """Two jobs that run side by side, then one that is to stop, and one beside it."""
    first, second, _, last = jobs(folder, assets)
    long = tiny_config(ppo={"steps": 400, "batch_size": 4})
    shape = long.base_shape()
    stops = Job(2, str(folder / "2"), Arm("a", shape).to_dict(), (0,), long.model_dump(mode="json"), str(assets))
    return [first, second, stops, last]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: tmp_path_factory.mktemp(name) for name in ("local", "ray", "local stopped", "ray stopped")}


@pytest.fixture(scope="module")
def local(folders: dict[str, Path], tiny_assets: Path) -> ListSource:
    source = ListSource(jobs(folders["local"], tiny_assets))
    LocalExecutor().run(source)
    return source


@pytest.fixture(scope="module")
def local_stopped(folders: dict[str, Path], tiny_assets: Path) -> ListSource:
    source = ListSource(stopping_jobs(folders["local stopped"], tiny_assets), stop_after={2: 3})
    LocalExecutor().run(source)
    return source


# Two logical GPUs: Ray hands them out by number whether or not there is one.
@pytest.fixture(scope="module")
def ray(folders: dict[str, Path], tiny_assets: Path) -> ListSource:
    """All jobs under Ray, each without a GPU."""
    from pipeline.executors.ray_tune import RayTuneExecutor

    source = ListSource(jobs(folders["ray"], tiny_assets))
    RayTuneExecutor(slots=2, gpus=0.0, machine_gpus=2).run(source)
    return source


@pytest.fixture(scope="module")
def ray_stopped(folders: dict[str, Path], tiny_assets: Path) -> ListSource:
    """Jobs under Ray of which one is to stop, each with a GPU."""
    from pipeline.executors.ray_tune import RayTuneExecutor

    source = ListSource(stopping_jobs(folders["ray stopped"], tiny_assets), stop_after={2: 3})
    RayTuneExecutor(slots=2, cpus=2, gpus=1.0, machine_gpus=2).run(source)
    return source


@pytest.mark.parametrize("executor", EXECUTORS)
def test_executor_runs_every_job_once_and_keeps_failures_as_data(
    executor: str, folders: dict[str, Path], request: pytest.FixtureRequest
) -> None:
    source: ListSource = request.getfixturevalue(executor)
    assert source.finished()
    assert sorted(source.outcomes) == [0, 1, 3]
    assert list(source.failures) == [2]
    reason, detail = source.failures[2]
    assert reason == "kl_limit" and "kl_limit_nats" in detail
    for index, outcome in source.outcomes.items():
        assert [run.seed for run in outcome.runs] == [0, 1]
        assert outcome.certificate.return_preserving and outcome.certificate.responses == 16
        assert source.progress[index] == [1, 2, 3, 4]
        folder = folders[executor] / str(index)
        kept = [json.loads((folder / f"seed-{seed}.json").read_text()) for seed in (0, 1)]
        assert kept == [run.to_dict() for run in outcome.runs]
        mean, error = outcome.metrics["objective"]
        values = [run.objective for run in outcome.runs]
        assert mean == pytest.approx(sum(values) / 2)
        assert error == pytest.approx(abs(values[0] - values[1]) / 2)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_job_that_is_to_stop_ends_without_an_outcome_and_the_others_go_on(
    executor: str, request: pytest.FixtureRequest
) -> None:
    source: ListSource = request.getfixturevalue(f"{executor}_stopped")
    assert source.finished() and source.stopped_jobs == [2] and sorted(source.outcomes) == [0, 1, 3]
    # Steps are told about every second, so some may have been trained before the answer; none is missing.
    assert source.progress[2] == list(range(1, len(source.progress[2]) + 1))
    assert 3 <= len(source.progress[2]) < 400


@pytest.mark.slow
def test_trials_side_by_side_see_devices_of_their_own_and_only_what_they_were_promised(
    ray: ListSource, ray_stopped: ListSource
) -> None:
    # The first two jobs begin together.
    for source, expected in ((ray_stopped, {"0", "1"}), (ray, {""})):
        machines: list[dict[str, Any]] = [source.outcomes[index].runs[0].machine for index in (0, 1)]
        assert len({machine["process"] for machine in machines}) == 2
        assert {machine["visible_devices"] or "" for machine in machines} == expected
        every = [outcome.runs[0].machine for outcome in source.outcomes.values()]
        assert {machine["visible_devices"] or "" for machine in every} <= expected
        assert {machine["threads"] for machine in every} == {1}


@pytest.mark.slow
def test_resources_that_no_node_has_are_refused_before_tune_waits_for_ever() -> None:
    from pipeline.executors.ray_tune import RayTuneExecutor

    with pytest.raises(ShapetuneError, match=r"(?s)executor\.gpus = 1, but no node of Ray has more than 0.*less"):
        RayTuneExecutor(slots=1, gpus=1.0, machine_gpus=0).run(ListSource([]))


@pytest.mark.slow
def test_both_executors_find_the_same_numbers_and_ray_runs_trials_side_by_side(
    local: ListSource, ray: ListSource
) -> None:
    assert local.most_running == 1 and ray.most_running == 2
    for index, outcome in local.outcomes.items():
        assert outcome.metrics["objective"] == ray.outcomes[index].metrics["objective"]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nonsense"])
def test_an_unreachable_cluster_is_refused_by_address(address: str) -> None:
    from pipeline.executors.ray_tune import RayTuneExecutor

    with pytest.raises(ShapetuneError, match=rf"{re.escape(address)}.*\n.*local"):
        RayTuneExecutor(slots=1, address=address).run(ListSource([]))


@pytest.mark.parametrize("cpus", [1, 2])
def test_a_run_uses_the_threads_it_was_promised_and_leaves_the_process_as_it_was(
    cpus: int, tiny_assets: Path, tmp_path: Path
) -> None:
    config = tiny_config(executor={"name": "local", "cpus": cpus})
    before = torch.get_num_threads()
    job = Job(0, str(tmp_path), Arm("a", config.base_shape()).to_dict(), (0,), config.model_dump(mode="json"), "")
    source = ListSource([replace(job, assets=str(tiny_assets))])
    LocalExecutor().run(source)
    assert source.outcomes[0].runs[0].machine["threads"] == cpus
    assert torch.get_num_threads() == before


def test_a_finished_seed_is_read_and_not_trained_again(
    local: ListSource, folders: dict[str, Path], tiny_assets: Path
) -> None:
    job = jobs(folders["local"], tiny_assets)[0]
    second = ListSource([job])
    LocalExecutor().run(second)
    assert second.progress[0] == local.progress[0] == [1, 2, 3, 4]
    assert second.outcomes[0] == local.outcomes[0]
