"""A run that is killed and goes on ends as one that never stopped, to the last bit."""

from __future__ import annotations

import json
import random
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.tasks.sentiment.task import load_sentiment
from pipeline.trainers.ppo.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from pipeline.trainers.ppo.trainer import PPOTrainer
from pipeline.trials.arm import Arm
from pipeline.trials.results import TrialResult
from pipeline.trials.run import run_trial
from pipeline.trials.types import Job, Progress
from shaping.shape import Shape
from tests.support.servers.commands import FORKS
from tests.support.studies import tiny_config

STEPS = 6
# Sampled orders draw from the shaper's generator, whose state must survive, too.
SHAPE = Shape(weights={"shapley": 0.5, "random": 0.5}, unit="token", max_units=16, budget=20, estimator="permutation")


def job_in(folder: Path, assets: Path, **ppo: Any) -> Job:
    settings = {"steps": STEPS, "batch_size": 4, "num_mini_batches": 2, "save_steps": 1, **ppo}
    config = tiny_config(ppo=settings, sampling={"response_tokens": 12})
    arm = Arm.with_critic("any", SHAPE, ppo.get("critic"))
    return Job(0, str(folder), arm.to_dict(), (7,), config.model_dump(mode="json"), str(assets))


def seed_result(folder: Path) -> dict[str, Any]:
    """Return everything a seed's run found, without what the clock says."""
    values: dict[str, Any] = json.loads((folder / "seed-7.json").read_text())
    return {name: value for name, value in values.items() if not name.endswith("seconds") and name != "machine"}


def run_to_the_end(job: Job) -> list[Progress]:
    *progress, outcome = list(run_trial(job))
    assert isinstance(outcome, TrialResult)
    return [each for each in progress if isinstance(each, Progress)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, tiny_assets: Path) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    progress = run_to_the_end(job_in(folder, tiny_assets, save_steps=0))
    assert [each.done_steps for each in progress] == list(range(1, STEPS + 1))
    return seed_result(folder)


@pytest.mark.parametrize("stop", range(1, STEPS))
def test_run_that_stops_after_any_step_ends_as_if_it_had_not(
    stop: int, tmp_path: Path, tiny_assets: Path, uninterrupted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_in(tmp_path, tiny_assets)
    running = run_trial(job)
    for _ in range(stop):
        next(running)
    running.close()
    # Whatever else the process drew meanwhile must not matter.
    torch.rand(3)
    trained: list[int] = []
    step = PPOTrainer.step
    monkeypatch.setattr(PPOTrainer, "step", lambda self, number: (trained.append(number), step(self, number))[1])
    progress = run_to_the_end(job)
    # Earlier steps are told again, for a driver that has forgotten them, but not trained again.
    assert trained == list(range(stop, STEPS))
    assert [(each.done_steps, each.step) for each in progress] == [(place + 1, place) for place in range(STEPS)]
    assert seed_result(tmp_path) == uninterrupted
    assert not list(tmp_path.glob("*.safetensors")) and not list(tmp_path.glob("*.partial*"))


@pytest.mark.parametrize("critic", ["value_head", "reward_model"])
def test_parameters_are_the_same_to_the_last_bit(critic: str, tiny_assets: Path, tmp_path: Path) -> None:
    config = tiny_config(ppo={"steps": 4, "batch_size": 4, "critic": critic}, sampling={"response_tokens": 8})
    task = load_sentiment(tiny_assets)
    whole, first, second = (PPOTrainer(task, SHAPE, config.ppo, config.sampling, 3) for _ in range(3))
    list(whole.steps())
    running = first.steps()
    next(running), next(running)
    write_checkpoint(tmp_path / "run.safetensors", first.checkpoint(step=2))
    saved = read_checkpoint(tmp_path / "run.safetensors")
    assert saved is not None and saved.values["step"] == 2
    second.restore(saved)
    list(second.steps(start=2))
    for name, weight in whole.actor.state_dict().items():
        assert torch.equal(weight, second.actor.state_dict()[name]), name
    assert second.certificate == whole.certificate


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_checkpoint_that_cannot_be_read_starts_the_seed_again(
    content: bytes | None, tmp_path: Path, tiny_assets: Path, uninterrupted: dict[str, Any]
) -> None:
    job, path = job_in(tmp_path, tiny_assets), tmp_path / "seed-7.safetensors"
    if content is None:
        write_checkpoint(path, Checkpoint({"actor.x": torch.zeros(1)}, {"run": "of another arm"}))
    else:
        path.write_bytes(content)
    assert len(run_to_the_end(job)) == STEPS
    assert seed_result(tmp_path) == uninterrupted


def attempt(job: Job, asked: Connection) -> None:
    """Make a step for each message: however fast the machine, no attempt ends before it is killed."""
    running = run_trial(job)
    while True:
        asked.recv()
        next(running)
        asked.send("made")


@pytest.mark.slow
def test_run_killed_at_random_moments_ends_as_if_it_had_not(
    tmp_path: Path, tiny_assets: Path, uninterrupted: dict[str, Any]
) -> None:
    job = job_in(tmp_path / "run", tiny_assets)
    chance, attempts = random.Random(0), 0
    while attempts < 20 and not (tmp_path / "run" / "seed-7.json").exists():
        saved = read_checkpoint(tmp_path / "run" / "seed-7.safetensors")
        # Steps that an earlier attempt trained are told again, then one or two new ones; the kill falls into the next.
        told = min((len(saved.values["curve"]) if saved else 0) + chance.randint(1, 2), STEPS)
        asked, answers = FORKS.Pipe()
        process = FORKS.Process(target=attempt, args=(job, answers))
        process.start()
        answers.close()
        for _ in range(told + 1):
            asked.send("another")
        for _ in range(told):
            assert asked.recv() == "made"
        time.sleep(chance.uniform(0, 0.2))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        attempts += 1
    assert attempts >= 2
    run_to_the_end(job)
    assert seed_result(tmp_path / "run") == uninterrupted
