"""The installed command, as a newcomer types it: a whole study under Ray, its status, report and shape."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shaping.shape import Shape
from tests.support.servers.commands import Command
from tests.support.waiting import LIMIT_SECONDS, wait_until

COMMAND = [sys.executable, "-m", "pipeline.cli"]
REPOSITORY = Path(__file__).parents[2]


def started_anew(*arguments: str, cwd: Path) -> str:
    """The command as the shell starts it; return what it says."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "160"}
    command, options = [*COMMAND, *arguments], {"cwd": cwd, "env": environment, "timeout": LIMIT_SECONDS}
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def shapetune(*arguments: str, cwd: Path, expected: int = 0, **variables: str) -> str:
    environment = {**os.environ, "COLUMNS": "160", **variables}
    command = Command(*arguments, cwd=cwd, environment=environment)
    code, said = command.wait(), command.printed()
    assert code == expected, said
    return said


def written_runs(study: Path) -> dict[str, int]:
    """Each finished run's file, and when it was written."""
    found = {str(path.relative_to(study)): path.stat().st_mtime_ns for path in study.glob("*/*/seed-*.json")}
    assert found
    return found


def check_that_the_shape_trains(study: Path, cwd: Path) -> None:
    """Train with a study's exported shape for a few steps: by TRL's GRPO, and by our own PPO."""
    shape = study / "export" / "shape.json"
    trained = shapetune("train", "smoke", "--shape", str(shape), "--set", "ppo.steps=2", "-o", "ppo", cwd=cwd)
    assert Shape.load(shape).describe() in trained and (cwd / "ppo" / "policy" / "config.json").is_file()

    said = shapetune("export", str(study), "-o", "grpo", "--format", "trl", cwd=cwd)
    assert "shapetune_trl.py" in said and "prompts.jsonl" in said
    options = ["--max_steps", "2", "--use_cpu", "--logging_steps", "1", "--output_dir", "trained"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "grpo/shapetune_trl.py", *options]
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "rewards/reward_model_score/mean" in done.stdout
    assert (cwd / "trained" / "config.json").is_file()
    refused = shapetune("export", str(study), "--format", "openrlhf", cwd=cwd, expected=2)
    assert "takes the first values as the rewards" in refused


@pytest.mark.slow
def test_a_shortened_quickstart_end_to_end(tmp_path: Path) -> None:
    said = started_anew("launch", "smoke", cwd=tmp_path)
    expected = (
        "winner of the search",
        "over 2 paired seeds",
        "Before training J",
        "kept in every run",
        "studies/smoke/report.html",
    )
    for words in (*expected, "shape.json"):
        assert words in said
    assert "Traceback" not in said and "[INFO" not in said
    study = tmp_path / "studies" / "smoke"
    assert Shape.load(study / "export" / "shape.json").active_methods()
    page = (study / "report.html").read_text()
    assert "reward model prefix correlation 24" in page
    assert page.count("<html") == 1 and len(page) < 8 * 2**20

    rows = json.loads(started_anew("status", "studies/smoke", "--json", cwd=tmp_path))
    assert [row["state"] for row in rows] == ["completed"] * 5
    # The learner is a parameter of the space: its rival is an arm, and trials say which critic they had.
    assert {row["trainer"]["ppo.critic"] for row in rows} == {"value_head", "reward_model"}
    assert "best observed J" in started_anew("status", "studies/smoke", cwd=tmp_path)
    assert "mine.html" in shapetune("report", "studies/smoke", "-o", "mine.html", cwd=tmp_path)
    assert "elsewhere/shape.json" in shapetune("export", "studies/smoke", "-o", "elsewhere", cwd=tmp_path)

    check_that_the_shape_trains(study, cwd=tmp_path)

    before, runs = (study / "verdict.json").read_text(), written_runs(study)
    again = shapetune("launch", "smoke", cwd=tmp_path, RAY_TMPDIR=str(tmp_path / "ray"))
    # Nothing is trained and Ray is not even started.
    assert written_runs(study) == runs and not (tmp_path / "ray").exists()
    assert "winner of the search" in again and (study / "verdict.json").read_text() == before


@pytest.mark.slow
def test_a_killed_launch_goes_on_with_the_same_command(tmp_path: Path) -> None:
    arguments = ["launch", "smoke", "--set", "executor.name=local", "--set", "ppo.steps=12"]
    process = Command(*arguments, cwd=tmp_path)
    first = tmp_path / "studies" / "smoke" / "trials" / "0" / "result.json"
    wait_until(first.exists, "the first trial ends", process=process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = first.read_text()
    said = shapetune(*arguments, cwd=tmp_path)
    assert "winner of the search" in said
    assert first.read_text() == kept
    rows = json.loads(shapetune("status", "studies/smoke", "--json", cwd=tmp_path))
    assert [(row["index"], row["state"]) for row in rows] == [(index, "completed") for index in range(5)]


def test_doctor_names_what_is_there(tmp_path: Path) -> None:
    said = started_anew("doctor", cwd=tmp_path)
    for words in ("python", "torch", "ray", "cache", "GiB free"):
        assert words in said


@pytest.mark.slow
def test_an_installed_wheel_works_outside_the_repository(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(REPOSITORY)]
    subprocess.run(build, check=True, capture_output=True, timeout=LIMIT_SECONDS)
    wheel = next(tmp_path.glob("shapetune-*.whl"))
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=LIMIT_SECONDS)
    probe = "import pipeline, shaping; from pipeline.cli import main; print(pipeline.__file__)\n"
    probe += "from pipeline.config.load import find_config, load_config\n"
    probe += "print(load_config(find_config('quickstart')).name); import pipeline.report.page, shapetune.api"
    environment = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    location, name = done.stdout.split()
    assert location.startswith(str(target)) and name == "quickstart"
    assert (target / "pipeline" / "report" / "templates" / "report.html.j2").is_file()
    assert (target / "pipeline" / "serve" / "templates" / "list.html.j2").is_file()
    assert all((target / package / "py.typed").is_file() for package in ("pipeline", "shaping", "shapetune"))
