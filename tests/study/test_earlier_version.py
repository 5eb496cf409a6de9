"""What commit 8987f0a left behind goes on here, and ends as it did there."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.load import load_config
from pipeline.study.folder import what_decides
from pipeline.tasks import asset_cache
from pipeline.trainers.ppo.run import InnerRun
from pipeline.trainers.ppo.settings import EvaluationSettings
from pipeline.trials.run import _run_identity
from pipeline.trials.task_models import assets_location
from pipeline.trials.types import Job
from shaping.shape import Shape
from tests.fixtures.study_8987f0a.record import CONFIG, HERE, ROOT, anywhere, came_to
from tests.support.models.tiny_task import tiny_trainer
from tests.support.servers.commands import Command

RUNS = json.loads((HERE / "runs.json").read_text())
ENDED = json.loads((HERE / "ended.json").read_text())
# After the first step that is made here: processors round differently.
ROUNDING = 1e-3


def launch(folder: Path, **search: Any) -> Path:
    """Launch the study that stands in ``folder/studies``; return its folder."""
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump({**CONFIG, "search": {**CONFIG["search"], **search}}))
    command = Command("launch", str(config), "--studies", str(folder / "studies"), cwd=ROOT)
    assert command.wait() == 0, command.printed()
    return folder / "studies" / "begun"


def finished_seeds(study: Path) -> dict[str, tuple[bytes, int]]:
    """Each finished run's file of the first five trials: what it holds, and when it was written."""
    files = [path for trial in range(5) for path in study.glob(f"trials/{trial}/seed-*.json")]
    return {str(path.relative_to(study)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.mark.slow
def test_a_study_that_was_killed_there_ends_here_as_it_did_there_and_takes_more_trials(tmp_path: Path) -> None:
    with tarfile.open(HERE / "begun.tar.gz") as archive:
        archive.extractall(tmp_path / "studies", filter="data")
    before = finished_seeds(tmp_path / "studies" / "begun")
    assert len(before) == 10

    study = launch(tmp_path)
    found = came_to(study)
    assert found["runs"] == ENDED["runs"] and found["shapes"] == ENDED["shapes"]
    assert found["winner"] == ENDED["winner"]
    assert found["verdict"]["differences"] == ENDED["verdict"]["differences"]
    text, then = found["verdict"]["text"], ENDED["verdict"]["text"]
    # That version did not look at bounds of the space.
    assert text[: len(then)] == then and all("bound of the space" in line for line in text[len(then) :])
    assert finished_seeds(study) == before

    more = came_to(launch(tmp_path, trials=7))
    assert {name: shape for name, shape in more["shapes"].items() if name != "6"} == ENDED["shapes"]
    assert "6" in more["shapes"] and {"trials/6/seed-0.json", "trials/6/seed-1.json"} <= set(more["runs"])
    assert finished_seeds(study) == before


def test_its_exported_shape_is_its_winners() -> None:
    assert Shape.load(HERE / "shape.json") == Shape.from_dict(ENDED["winner"]["shape"])


def test_a_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    saved = tmp_path / "ppo.safetensors"
    saved.write_bytes((HERE / "ppo.safetensors").read_bytes())
    run = InnerRun(tiny_trainer(**RUNS["settings"]), EvaluationSettings(prompts=4), saved, "any")
    assert [point.step for point in run.steps()] == [2, 3]
    assert run.curve[:2] == RUNS["curve"][:2]
    for ours, theirs in zip(run.curve[2:], RUNS["curve"][2:], strict=True):
        assert ours == pytest.approx(theirs, abs=ROUNDING)
    measured, expected = run.result().to_dict(), dict(RUNS["evaluation"])
    for kept in (measured, expected):
        texts = kept.pop("texts")
        kept["scores"] = [text["score"] for text in texts]
    assert measured.pop("scores") == pytest.approx(expected.pop("scores"), abs=ROUNDING)
    assert measured == pytest.approx(expected, abs=ROUNDING)


@pytest.mark.parametrize("name", sorted(RUNS["identities"]))
def test_configs_runs_and_assets_are_known_under_the_same_identities(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Asset keys hold the versions of libraries, and configs where their files are looked for.
    monkeypatch.setattr(asset_cache, "version", lambda library: "any")
    monkeypatch.chdir(ROOT)
    path = HERE / "configs" / f"{name}.yaml"
    # A study keeps the bounds of lambda that were the default when it was begun.
    said = "gae_lambda" in yaml.safe_load(path.read_text())["space"]
    config = load_config(path, () if said else ("space.gae_lambda=[0.6, 1.0]",))
    arm = {"name": "any", "shape": config.base_shape().to_dict()}
    job = Job(0, "", arm, (0,), anywhere(config.model_dump(mode="json")), "/cache/any-0123")
    location = assets_location(config)
    assert RUNS["identities"][name] == {
        "config": hashlib.sha256(json.dumps(anywhere(what_decides(config)), sort_keys=True).encode()).hexdigest(),
        "run": _run_identity(job, 0),
        "assets": None if location is None else location.name,
    }
