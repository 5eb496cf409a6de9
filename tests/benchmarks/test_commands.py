"""The commands that stand in results keep working: they are what repeats a number."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
# Without results of their own, or not run yet.
OTHERS = ("benchmarks.outer.landscape_trials", "benchmarks.gpu --steps 1")


def recorded() -> list[str]:
    """Return modules with arguments, as results say them."""
    commands = {json.loads(path.read_text()).get("command") for path in RESULTS.glob("*.json")} - {None}
    return sorted({command.removeprefix("python -m ") for command in commands} | set(OTHERS))


def test_commands_are_recorded() -> None:
    assert len(recorded()) > len(OTHERS) + 10
    assert all(command.startswith("benchmarks.") for command in recorded())


# In this process: a fresh one takes five seconds to import the libraries, which all of them share.
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("command", recorded())
def test_a_recorded_command_is_understood(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, *arguments = command.split()
    for each in arguments:
        # Policies that are named have to be there.
        folder = each.partition("=")[2]
        if folder:
            (tmp_path / folder).mkdir(parents=True)
            (tmp_path / folder / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    # Arguments before --help are read, and refused where an option is gone.
    monkeypatch.setattr("sys.argv", [module, *arguments, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out
