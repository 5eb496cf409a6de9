"""The tests leave the user's home as it is: all of them, and whatever they start, have a home of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.tasks.asset_cache import cache_folder
from tests.support.home import entries, real_home

LOOK = """
from pathlib import Path
from ray._private.authentication import authentication_token_setup as setup
print(Path.home())
print(setup._get_default_token_path())
"""


def test_every_process_has_the_tests_home() -> None:
    home = Path.home()
    assert home != real_home() and home.name.startswith("shapetune-home-")
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(home), str(home / ".ray" / "auth_token")]


def test_downloads_are_not_kept_in_a_home_that_goes() -> None:
    assert cache_folder().is_absolute() and not cache_folder().is_relative_to(Path.home())


@pytest.mark.parametrize("name", [".ray/auth_token", ".netrc", ".config/chromium", ".local/share/x", ".cache/other/y"])
def test_whatever_is_written_into_a_home_is_noticed(name: str, tmp_path: Path) -> None:
    for folder in (".ray", ".config", ".local/share", ".cache"):
        (tmp_path / folder).mkdir(parents=True)
    before = entries(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("x")
    assert entries(tmp_path) - before


def test_the_cache_is_the_tests_to_fill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = entries(tmp_path)
    monkeypatch.setenv("SHAPETUNE_CACHE", str(tmp_path / ".cache" / "shapetune"))
    (tmp_path / ".cache" / "shapetune").mkdir(parents=True)
    assert entries(tmp_path) == before
