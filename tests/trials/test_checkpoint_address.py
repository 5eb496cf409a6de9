"""Checkpoints at an address: a run that stops goes on from there, and nothing is left when it has ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from pipeline.study.examined import examined
from pipeline.trainers.ppo import checkpoint as checkpoints
from pipeline.trainers.ppo.checkpoint import (
    Checkpoint,
    previous_checkpoint,
    read_checkpoint,
    remove_checkpoints,
    write_checkpoint,
)
from pipeline.trials.arm import Arm
from pipeline.trials.run import run_trial
from pipeline.trials.types import Job
from shaping.errors import ConfigError
from tests.support.studies import tiny_config

BASE = "memory://bucket/checkpoints"
PLACE = f"{BASE}/seed-1.safetensors"


@pytest.fixture(autouse=True)
def memory() -> Any:
    """An empty file system in memory."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def checkpoint(value: float) -> Checkpoint:
    return Checkpoint({"a": torch.full((3,), value)}, {"value": value})


def value_at(place: str) -> float | None:
    found = read_checkpoint(place)
    return None if found is None else float(found.values["value"])


def test_the_last_checkpoint_is_read_and_the_one_before_where_it_is_damaged(memory: Any) -> None:
    assert read_checkpoint(PLACE) is None
    for value in (1.0, 2.0, 3.0):
        write_checkpoint(PLACE, checkpoint(value))
        assert value_at(PLACE) == value
    assert torch.equal(read_checkpoint(PLACE).tensors["a"], torch.full((3,), 3.0))  # type: ignore[union-attr]
    files = sorted(memory.find("/bucket"))
    assert files == ["/bucket/checkpoints/seed-1.previous.safetensors", "/bucket/checkpoints/seed-1.safetensors"]
    whole = memory.cat_file("/bucket/checkpoints/seed-1.safetensors")
    memory.pipe_file("/bucket/checkpoints/seed-1.safetensors", whole[:-1] + bytes([whole[-1] ^ 1]))
    assert value_at(PLACE) == 2.0
    remove_checkpoints(PLACE)
    assert memory.find("/bucket") == [] and read_checkpoint(PLACE) is None


def test_a_writer_that_dies_between_two_moves_leaves_the_one_before(
    monkeypatch: pytest.MonkeyPatch, memory: Any
) -> None:
    write_checkpoint(PLACE, checkpoint(1.0))
    move = type(memory).mv

    def dies(self: Any, source: str, target: str, **options: Any) -> None:
        if source.endswith(".partial"):
            raise KeyboardInterrupt
        move(self, source, target, **options)

    monkeypatch.setattr(type(memory), "mv", dies)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(PLACE, checkpoint(2.0))
    assert value_at(PLACE) == 1.0
    assert value_at(str(previous_checkpoint(PLACE))) == 1.0


def test_an_address_that_cannot_be_reached_is_no_run_without_a_checkpoint(
    monkeypatch: pytest.MonkeyPatch, memory: Any
) -> None:
    def unreachable(*_: Any, **__: Any) -> bool:
        raise OSError("no route to host")

    monkeypatch.setattr(type(memory), "exists", unreachable)
    with pytest.raises(OSError, match="no route"):
        read_checkpoint(PLACE)


def test_a_run_that_stops_goes_on_from_its_address(
    tmp_path: Path, tiny_assets: Path, monkeypatch: pytest.MonkeyPatch, memory: Any
) -> None:
    ppo = {"steps": 4, "batch_size": 4, "save_steps": 1}

    def job_in(folder: Path, **executor: str) -> Job:
        config = tiny_config(ppo=ppo, executor={"name": "local", **executor})
        arm = Arm("a", config.base_shape().with_changes(weights={"prefix": 1.0}))
        return Job(0, str(folder), arm.to_dict(), (7,), config.model_dump(mode="json"), str(tiny_assets))

    def curve_in(folder: Path) -> Any:
        return json.loads((folder / "seed-7.json").read_text())["curve"]

    plain, away = tmp_path / "plain" / "trials" / "0", tmp_path / "away" / "trials" / "0"
    list(run_trial(job_in(plain)))
    job = job_in(away, checkpoints=f"{BASE}/")
    running = run_trial(job)
    for _ in range(3):
        next(running)
    running.close()
    name = tiny_config().name
    assert f"/bucket/checkpoints/{name}/trials/0/seed-7.safetensors" in memory.find("/bucket")
    assert not list(away.glob("*.safetensors"))
    read: list[Any] = []
    monkeypatch.setattr(
        checkpoints, "_read_file", lambda path, real=checkpoints._read_file: (read.append(path), real(path))[1]
    )
    list(run_trial(job))
    assert len(read) == 1 and curve_in(away) == curve_in(plain)
    assert memory.find("/bucket") == []


@pytest.mark.parametrize("address", ["nowhere://bucket", "s3://bucket/folder"])
def test_an_address_that_nothing_here_reaches_is_refused_by_name(address: str, tmp_path: Path) -> None:
    config = tiny_config(executor={"name": "local", "checkpoints": address})
    with pytest.raises(ConfigError, match=r"(?s)executor.checkpoints = .* cannot be used: .*install its package"):
        examined(config, tmp_path)
