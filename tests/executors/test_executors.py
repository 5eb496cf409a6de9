"""One contract for every executor: the same source, run in this process and under Ray Tune."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.executors.local import LocalExecutor
from pipeline.trials.arm import Arm
from pipeline.trials.types import Executor, Job
from shaping.errors import ShapetuneError
from tests.support.list_source import ListSource
from tests.support.studies import tiny_config


def ray_executor() -> Executor:
    from pipeline.executors.ray_tune import RayTuneExecutor

    return RayTuneExecutor(slots=2)


EXECUTORS = [
    pytest.param(LocalExecutor, id="local"),
    pytest.param(ray_executor, id="ray", marks=pytest.mark.slow),
]


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


@pytest.mark.parametrize("make_executor", EXECUTORS)
def test_executor_runs_every_job_once_and_keeps_failures_as_data(
    make_executor: Callable[[], Executor], tiny_assets: Path, tmp_path: Path
) -> None:
    source = ListSource(jobs(tmp_path, tiny_assets))
    make_executor().run(source)
    assert source.finished()
    assert sorted(source.outcomes) == [0, 1, 3]
    assert list(source.failures) == [2]
    reason, detail = source.failures[2]
    assert reason == "kl_limit" and "kl_limit_nats" in detail
    for index, outcome in source.outcomes.items():
        assert [run.seed for run in outcome.runs] == [0, 1]
        assert outcome.certificate.return_preserving and outcome.certificate.responses == 16
        assert source.progress[index] == [1, 2, 3, 4]
        kept = [json.loads((tmp_path / str(index) / f"seed-{seed}.json").read_text()) for seed in (0, 1)]
        assert kept == [run.to_dict() for run in outcome.runs]
        mean, error = outcome.metrics["objective"]
        values = [run.objective for run in outcome.runs]
        assert mean == pytest.approx(sum(values) / 2)
        assert error == pytest.approx(abs(values[0] - values[1]) / 2)


@pytest.mark.parametrize("make_executor", EXECUTORS)
def test_a_job_that_is_to_stop_ends_without_an_outcome_and_the_others_go_on(
    make_executor: Callable[[], Executor], tiny_assets: Path, tmp_path: Path
) -> None:
    long = tiny_config(ppo={"steps": 400, "batch_size": 4})
    shape = long.base_shape()
    first = Job(0, str(tmp_path / "0"), Arm("a", shape).to_dict(), (0,), long.model_dump(mode="json"), str(tiny_assets))
    source = ListSource([first, *jobs(tmp_path, tiny_assets)[1:2]], stop_after={0: 3})
    make_executor().run(source)
    assert source.finished() and source.stopped_jobs == [0] and list(source.outcomes) == [1]
    # Steps are told about every second, so some may have been trained before the answer; none is missing.
    assert source.progress[0] == list(range(1, len(source.progress[0]) + 1))
    assert 3 <= len(source.progress[0]) < 400


@pytest.mark.slow
def test_trials_side_by_side_see_devices_of_their_own_and_only_what_they_were_promised(
    tiny_assets: Path, tmp_path: Path
) -> None:
    from pipeline.executors.ray_tune import RayTuneExecutor

    # Two logical GPUs: Ray hands them out by number whether or not there is one.
    for name, gpus, expected in (("whole", 1.0, {"0", "1"}), ("none", 0.0, {""})):
        source = ListSource(jobs(tmp_path / name, tiny_assets)[:2])
        RayTuneExecutor(slots=2, cpus=2, gpus=gpus, machine_gpus=2).run(source)
        machines = {index: outcome.runs[0].machine for index, outcome in source.outcomes.items()}
        assert len(machines) == 2 and len({machine["process"] for machine in machines.values()}) == 2
        seen = {machine["visible_devices"] or "" for machine in machines.values()}
        assert seen <= expected
        if name == "whole":
            assert seen == expected
        assert {machine["threads"] for machine in machines.values()} == {1}


@pytest.mark.slow
def test_resources_that_no_node_has_are_refused_before_tune_waits_for_ever() -> None:
    from pipeline.executors.ray_tune import RayTuneExecutor

    with pytest.raises(ShapetuneError, match=r"(?s)executor\.gpus = 1, but no node of Ray has more than 0.*less"):
        RayTuneExecutor(slots=1, gpus=1.0, machine_gpus=0).run(ListSource([]))


@pytest.mark.slow
def test_both_executors_find_the_same_numbers_and_ray_runs_trials_side_by_side(
    tiny_assets: Path, tmp_path: Path
) -> None:
    sources = {}
    for name, executor in (("local", LocalExecutor()), ("ray", ray_executor())):
        sources[name] = ListSource(jobs(tmp_path / name, tiny_assets))
        executor.run(sources[name])
    assert sources["local"].most_running == 1 and sources["ray"].most_running == 2
    for index, outcome in sources["local"].outcomes.items():
        assert outcome.metrics["objective"] == sources["ray"].outcomes[index].metrics["objective"]


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


def test_a_finished_seed_is_read_and_not_trained_again(tiny_assets: Path, tmp_path: Path) -> None:
    job = jobs(tmp_path, tiny_assets)[0]
    first = ListSource([job])
    LocalExecutor().run(first)
    second = ListSource([job])
    LocalExecutor().run(second)
    assert second.progress[0] == first.progress[0] == [1, 2, 3, 4]
    assert second.outcomes[0] == first.outcomes[0]
