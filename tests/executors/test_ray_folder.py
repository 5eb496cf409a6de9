"""Where a Ray of the study's own keeps its session: nowhere that its sockets' paths have no room for."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.executors.ray_folder import BEHIND, MOST_BYTES, fits, session_folder, usual_folder
from pipeline.executors.ray_private import in_folder
from shaping.errors import ShapetuneError
from tests.support.launches import write_config
from tests.support.waiting import LIMIT_SECONDS

LONG = "/scratch/a_directory_of_a_batch_system/job_1234567/job_1234567"


def test_the_usual_folder_is_rays_own_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._common.utils import get_default_ray_temp_dir

    for variables in ({}, {"TMPDIR": "/a"}, {"RAY_TMPDIR": "/b"}, {"TMPDIR": "/a", "RAY_TMPDIR": "/b"}):
        for name in ("TMPDIR", "RAY_TMPDIR"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert usual_folder(os.environ) == get_default_ray_temp_dir()


def test_what_fits_is_what_a_socket_can_be_bound_to(tmp_path: Path) -> None:
    room = MOST_BYTES - len(BEHIND)
    assert fits("/" + "x" * (room - 1))
    assert not fits("/" + "x" * room)
    # Bytes count, not characters.
    assert not fits("/" + "é" * (room - 1))
    taken = socket.socket(socket.AF_UNIX)
    with taken, pytest.raises(OSError, match="path too long"):
        taken.bind("/" + "x" * (MOST_BYTES + 1))


@pytest.mark.parametrize("variables", [{}, {"TMPDIR": "/tmp"}, {"TMPDIR": LONG, "RAY_TMPDIR": "/tmp"}])
def test_a_short_usual_folder_is_left_to_ray(variables: dict[str, str]) -> None:
    with session_folder(variables) as folder:
        assert folder is None
        assert in_folder(folder) == {}


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_a_long_one_is_replaced_by_a_short_private_folder_that_is_removed(name: str) -> None:
    with session_folder({name: LONG}) as folder:
        assert folder is not None
        assert fits(str(folder))
        assert folder.stat().st_mode & 0o777 == 0o700
        assert in_folder(folder) == {"_temp_dir": str(folder)}
        (folder / "session").mkdir()
    assert not folder.exists()


def test_without_a_place_for_a_short_one_the_variable_is_named(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    for name in ("TMPDIR", "RAY_TMPDIR"):
        with pytest.raises(ShapetuneError) as refused, session_folder({name: LONG}, ("/no/such", str(long))):
            pass
        assert f"{name} = {LONG} is too long" in refused.value.message
        assert f"set {name}" in refused.value.hint
    assert not list(long.iterdir())


@pytest.mark.slow
def test_a_study_runs_under_ray_though_the_temporary_folder_is_long(tmp_path: Path) -> None:
    long = tmp_path / "a_directory_of_a_batch_system" / ("job_1234567/" * 5)
    long.mkdir(parents=True)
    config = write_config(tmp_path / "study", "ray", 0.0)
    command = [sys.executable, "-m", "pipeline.cli", "launch", str(config), "--studies", str(tmp_path / "studies")]
    less = ["--set", "search.trials=3", "--set", "search.sobol_trials=0", "--set", "search.seeds=[0]"]
    environment = {**os.environ, "TMPDIR": str(long)}
    environment.pop("RAY_TMPDIR", None)
    done = subprocess.run([*command, *less], env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    assert done.returncode == 0, done.stderr
    assert not list(long.glob("ray*"))
