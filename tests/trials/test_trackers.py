"""Curves in other tools: offline modes of all three, written by a trial and by a later attempt of it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.config.schema import StudyConfig
from pipeline.runtime import trackers
from pipeline.runtime.trackers import RunTrackers, check_trackers, plain
from pipeline.study.folder import what_decides
from pipeline.trials.arm import Arm
from pipeline.trials.results import RunResult, TrialResult
from pipeline.trials.run import _run_identity, run_trial
from pipeline.trials.types import Job
from shaping.errors import ConfigError
from tests.support.studies import tiny_config

ALL = ("tensorboard", "wandb", "mlflow")
STEPS = 4


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """Everything offline: MLflow's database in a file, W&B's runs in the run's folder."""
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    return MlflowClient(address)


def tracked_config(to: tuple[str, ...]) -> StudyConfig:
    ppo = {"steps": STEPS, "batch_size": 4, "save_steps": 1}
    return tiny_config(ppo=ppo, evaluation={"prompts": 4, "every_steps": 2, "curve_prompts": 2}, tracking={"to": to})


def job_in(folder: Path, config: StudyConfig, assets: Path) -> Job:
    arm = Arm("7_0", config.base_shape().with_changes(weights={"prefix": 1.0}))
    return Job(7, str(folder / "7"), arm.to_dict(), (3,), config.model_dump(mode="json"), str(assets))


def runs_of(store: MlflowClient, experiment: str) -> list[Run]:
    found = store.get_experiment_by_name(experiment)
    return [] if found is None else list(store.search_runs([found.experiment_id]))


def history(store: MlflowClient, run: Run, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in store.get_metric_history(run.info.run_id, name)]


def result_of(outcome: Any) -> RunResult:
    assert isinstance(outcome, TrialResult)
    return outcome.runs[0]


@pytest.mark.slow
def test_a_trials_curve_goes_to_every_tracker_and_goes_on_there(
    store: MlflowClient, tmp_path: Path, tiny_assets: Path
) -> None:
    config = tracked_config(ALL)
    job = job_in(tmp_path, config, tiny_assets)
    first = run_trial(job)
    for _ in range(2):
        next(first)
    # As where a trial is stopped; the next attempt begins at the last checkpoint.
    first.close()
    *_, outcome = run_trial(job)
    result = result_of(outcome)
    (run,) = runs_of(store, config.name)
    assert run.info.run_name == f"{config.name}/7/seed-3" and run.info.status == "FINISHED"
    assert run.data.params["arm"] == "7_0" and run.data.params["shape.weights.prefix"] == "1.0"
    for name in ("objective", "reward", "kl_nats"):
        # A step that was made anew stands there twice, with the same value.
        assert dict(history(store, run, f"train/{name}")) == {
            step: point[name] for step, point in enumerate(result.curve)
        }
    held_out = {each["done_steps"]: each["objective"] for each in result.held_out}
    assert dict(history(store, run, "held_out/objective")) == held_out and len(held_out) == 3
    assert history(store, run, "final/objective") == [(STEPS, result.evaluation["objective"])]
    folder = tmp_path / "7" / "tracking" / "seed-3"
    events = b"".join(path.read_bytes() for path in (folder / "tensorboard").glob("events*"))
    assert events.count(b"train/objective") >= STEPS and b"final/objective" in events
    offline = b"".join(path.read_bytes() for path in folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert b"train/objective" in offline and b"final/objective" in offline


def test_a_tracker_that_fails_is_said_once_and_costs_no_step(
    tmp_path: Path, tiny_assets: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    plain = result_of(list(run_trial(job_in(tmp_path / "plain", tracked_config(()), tiny_assets)))[-1])
    with caplog.at_level(logging.WARNING):
        *_, outcome = run_trial(job_in(tmp_path / "tracked", tracked_config(("mlflow",)), tiny_assets))
    assert result_of(outcome).curve == plain.curve
    (said,) = [each.getMessage() for each in caplog.records if each.name == trackers.__name__]
    assert "mlflow is left out for" in said and "nonsense" in said


def test_a_tracker_that_fails_later_is_left_out_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = RunTrackers(("tensorboard",), "project", "run", tmp_path, {})

    class Breaking:
        def log(self, *_: object, **__: object) -> None:
            raise OSError("the network is down")

    found._open = {"wandb": Breaking(), **found._open}
    for step in range(3):
        found.log("train", {"reward": 1.5, "text": "no number"}, step)
    found.close()
    (events,) = (tmp_path / "tensorboard").glob("events*")
    assert events.read_bytes().count(b"train/reward") == 3
    assert [each.getMessage() for each in caplog.records if each.name == trackers.__name__] == [
        "wandb is left out for run: OSError: the network is down"
    ]


def test_a_tracker_that_is_not_installed_is_refused_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    check_trackers(ALL)
    monkeypatch.setitem(trackers.PACKAGES, "wandb", "no_such_package")
    with pytest.raises(ConfigError, match=r"(?s)tracking.to has wandb, .*pip install 'shapetune\[wandb\]'"):
        check_trackers(ALL)


def test_where_curves_go_and_where_responses_come_from_decide_nothing(tmp_path: Path, tiny_assets: Path) -> None:
    """So a study may be resumed with others, and its runs from their checkpoints."""
    served = {"engine": "vllm", "vllm": {"url": "http://one:8000"}}
    plain = tiny_config(sampling=served)
    other = tiny_config(sampling={**served, "vllm": {"url": "http://two:8000"}}, tracking={"to": ["wandb"]})
    assert what_decides(plain) == what_decides(other)
    assert what_decides(plain) != what_decides(tiny_config())
    one, two = (_run_identity(job_in(tmp_path, config, tiny_assets), 3) for config in (plain, other))
    assert one == two


def test_settings_are_flat_and_plain() -> None:
    assert plain({"a": {"b": 1, "c": {"d": None}}, "e": True}) == {"a.b": 1, "a.c.d": "None", "e": True}
