"""Attempts that fail: tried again from where they stood, given up with a reason, or the end of the study."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.executors.local import LocalExecutor
from pipeline.trials.arm import Arm
from pipeline.trials.failures import FINAL, failure_of
from pipeline.trials.records import TrialFiles
from pipeline.trials.types import Executor, Job
from shaping.errors import ConfigError, ShapetuneError, TrialFailed
from tests.support import faulty_trainer
from tests.support.faulty_trainer import FAULTY_STEP, STEPS, job_value
from tests.support.list_source import ListSource
from tests.support.studies import tiny_config

RETRIES = 1
# A worker's silence begins with its imports, which take long where the machine has other work.
LOCAL_STALL_MINUTES, WORKER_STALL_MINUTES = 0.1, 1.5


def ray_executor() -> Executor:
    from pipeline.executors.ray_tune import RayTuneExecutor

    return RayTuneExecutor(slots=2, retries=RETRIES, stall_minutes=WORKER_STALL_MINUTES)


def local_executor() -> Executor:
    return LocalExecutor(retries=RETRIES, stall_minutes=LOCAL_STALL_MINUTES)


EXECUTORS = [
    pytest.param(local_executor, id="local"),
    pytest.param(ray_executor, id="ray", marks=pytest.mark.slow),
]


def faulty_config() -> dict[str, Any]:
    trainer = {"function": f"{faulty_trainer.__file__}:train"}
    return tiny_config(trainer=trainer, ppo={"steps": STEPS}).model_dump(mode="json")


def faulty_jobs(folder: Path, arms: list[str]) -> list[Job]:
    shape = tiny_config().base_shape()
    return [
        Job(index, str(folder / str(index)), Arm(arm, shape).to_dict(), (0,), faulty_config(), "")
        for index, arm in enumerate(arms)
    ]


def attempts(job: Job) -> list[int]:
    """The step that each attempt began with."""
    return [int(step) for step in (Path(job.folder) / "attempts.txt").read_text().split()]


@pytest.mark.parametrize("make_executor", EXECUTORS)
def test_attempts_go_on_where_the_last_one_stood_and_are_given_up_in_the_end(
    make_executor: Callable[[], Executor], tmp_path: Path
) -> None:
    expected = {
        "fine": None,
        "raises once": None,
        "hangs once": None,
        "raises": ("exception", "ValueError: the reward service said no to raises (faulty_trainer.py, line "),
        "nan": ("nan", "objective = nan at step 3"),
        "memory": ("out_of_memory", "ran out of memory"),
    }
    if make_executor is ray_executor:
        # Each attempt is a process of its own, which takes seconds; a killed one takes everything that runs in it.
        expected = {arm: expected[arm] for arm in ("fine", "raises once", "hangs once", "raises")}
        expected |= {"killed once": None, "killed": ("worker_died", "process")}
    jobs = faulty_jobs(tmp_path, list(expected))
    source = ListSource(jobs)
    make_executor().run(source)
    assert source.finished()
    for job, (arm, ending) in zip(jobs, expected.items(), strict=True):
        retries = [reason for index, reason, _ in source.retries if index == job.index]
        noted = job.files.attempts()
        if ending is None:
            begun = [0] if arm == "fine" else [0, FAULTY_STEP]
            assert attempts(job) == begun, arm
            curve = source.outcomes[job.index].runs[0].curve
            assert [point["objective"] for point in curve] == [job_value(step, arm) for step in range(STEPS)]
            assert len(retries) == len(noted) == len(begun) - 1
            # Steps of an earlier attempt are told again; none is missing, and none comes out of order.
            assert source.progress[job.index][-STEPS:] == list(range(1, STEPS + 1))
        else:
            assert attempts(job) == [0] + [FAULTY_STEP] * RETRIES, arm
            reason, detail = source.failures[job.index]
            assert reason == ending[0] and ending[1] in detail and "\n" not in detail
            assert retries == [reason] * RETRIES and len(noted) == RETRIES + 1
            assert {each.reason for each in noted} == {reason}
    hung = jobs[2].files.attempts()
    assert [each.reason for each in hung] == ["hung"] and "minutes" in hung[0].detail
    assert "go_wrong" in hung[0].trace


@pytest.mark.parametrize("make_executor", EXECUTORS)
def test_a_full_disk_ends_the_study_and_gives_no_trial_up(
    make_executor: Callable[[], Executor], tmp_path: Path
) -> None:
    source = ListSource(faulty_jobs(tmp_path, ["fine", "full"]))
    with pytest.raises(ShapetuneError, match=r"(?s)cannot write any more on .*No space left.*the same command resumes"):
        make_executor().run(source)
    assert not source.failures and 1 in source.running and not source.retries


@pytest.mark.parametrize("make_executor", EXECUTORS)
def test_an_error_of_the_study_itself_is_no_failure_of_the_trial(
    make_executor: Callable[[], Executor], tmp_path: Path
) -> None:
    class Broken(ListSource):
        def tell(self, job: Job, outcome: Any) -> None:
            raise ShapetuneError("the database is gone", "start it")

    source = Broken(faulty_jobs(tmp_path, ["fine"]))
    with pytest.raises(ShapetuneError, match="the database is gone"):
        make_executor().run(source)
    assert not source.failures and not source.retries


def test_a_first_attempt_alone_decides_where_there_are_no_retries(tmp_path: Path) -> None:
    source = ListSource(faulty_jobs(tmp_path, ["raises once"]))
    LocalExecutor(retries=0).run(source)
    assert source.failures[0][0] == "exception" and attempts(faulty_jobs(tmp_path, ["raises once"])[0]) == [0]


@pytest.mark.parametrize("reason", FINAL)
def test_what_training_came_to_is_not_tried_again(reason: str) -> None:
    assert not failure_of(TrialFailed(reason, "it did")).may_be_retried
    assert failure_of(TrialFailed("nan", "it is")).may_be_retried


@pytest.mark.parametrize(
    ("error", "reason", "detail"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory", "CUDA out of memory"),
        (RuntimeError("can't allocate memory: you tried to allocate 9 bytes"), "out_of_memory", "allocate 9 bytes"),
        (RuntimeError("shapes differ"), "exception", "RuntimeError: shapes differ"),
        (ConfigError("task.x = 3 is odd", "make it even"), "exception", "task.x = 3 is odd make it even"),
        (OSError(30, "Read-only file system"), "exception", "Read-only"),
    ],
)
def test_exceptions_become_reasons(error: Exception, reason: str, detail: str) -> None:
    found = failure_of(error)
    assert found.reason == reason and detail in found.detail
    assert found.halts == (getattr(error, "errno", None) == 30)


def test_a_noted_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "failures-0.jsonl"
    line = {"at": "2026-11-30T00:00:00+00:00", "seeds": [0], "reason": "nan", "detail": "it is"}
    path.write_text(json.dumps(line) + '\n{"reason": "h')
    assert [attempt.reason for attempt in TrialFiles(tmp_path).attempts()] == ["nan"]
