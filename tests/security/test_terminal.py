"""What others wrote cannot move the cursor, retitle the window, plant a link or break the markup of the console."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console, Group

from pipeline import cli
from pipeline.commands.display import StudyDisplay
from pipeline.commands.status import trial_lines
from pipeline.config.load import parse_config
from pipeline.study.status import read_status
from pipeline.trials.arm import Arm
from pipeline.trials.types import Ending, Job
from shaping.errors import ConfigError, TrialFailed
from shaping.printable import printable
from shaping.shape import Shape
from tests.support.hostile import ESCAPES, MARKUP
from tests.support.reports.synthetic_study import SyntheticStudy


def terminal() -> tuple[Console, StringIO]:
    written = StringIO()
    return Console(file=written, force_terminal=True, color_system=None, highlight=False, width=400), written


def failed_study(folder: Path) -> SyntheticStudy:
    """Return a study of one trial, which failed for a reason that somebody else wrote."""
    study = SyntheticStudy(folder / "study")
    study.failed_trial(10, reason=MARKUP, detail=ESCAPES)
    return study


def obeyed(text: str) -> str:
    """Return the characters that a terminal would obey."""
    return "".join(letter for letter in text if printable(letter) != letter)


@settings(deadline=None)
@given(st.text())
def test_what_is_printable_has_no_control_characters_and_loses_no_others(text: str) -> None:
    shown = printable(text)
    assert all(letter.isprintable() or letter in "\n\t" or ord(letter) > 0x9F for letter in shown)
    assert not set(shown) & set("\x1b\x9b\x07\x08\r\x00\x7f\u202e\u2066")
    if text.isprintable():
        assert shown == text
    assert printable(shown) == shown


def test_errors_carry_no_control_characters() -> None:
    assert obeyed(ESCAPES)
    for error in (ConfigError(ESCAPES, ESCAPES), TrialFailed("nan", ESCAPES, ESCAPES)):
        assert obeyed(str(error)) == obeyed(error.message) == obeyed(error.hint) == ""
        assert obeyed(error.args[0]) == ""
        assert "\\x1b]0;title\\x07" in str(error)
    assert obeyed(TrialFailed("nan", ESCAPES).detail) == ""


def test_status_shows_reasons_as_they_are_without_obeying_them(tmp_path: Path) -> None:
    study = failed_study(tmp_path)
    file = study.folder.trial_folder(10) / "trial.json"
    study.write(file, {**json.loads(file.read_text()), "origin": f"{MARKUP} {ESCAPES}"})
    console, written = terminal()
    console.print(Group(*trial_lines(read_status(study.folder), console.width, running=True)))
    assert obeyed(written.getvalue()) == ""
    assert MARKUP in written.getvalue() and "\\x1b]0;title" in written.getvalue()


@pytest.mark.parametrize("stopped", [False, True])
def test_a_launch_shows_reasons_and_names_without_obeying_them(stopped: bool, tmp_path: Path) -> None:
    config = parse_config({"name": "shown"}, "test")
    arm = Arm(f"{MARKUP} {ESCAPES}", Shape())
    job = Job(3, str(tmp_path), arm.to_dict(), (0,), config.model_dump(mode="json"), "")
    console, written = terminal()
    StudyDisplay(config, console).ended("search", job, Ending(None, f"{MARKUP} {ESCAPES}", stopped=stopped))
    assert obeyed(written.getvalue()) == ""
    assert MARKUP in written.getvalue()


def test_status_as_json_is_ascii(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = failed_study(tmp_path)
    assert cli._run(["status", str(study.folder.root), "--json"]) == 0
    shown = capsys.readouterr().out
    assert shown.isascii() and obeyed(shown) == ""
    assert json.loads(shown)[0]["reason"] == f"{MARKUP}: {ESCAPES}"


def test_a_refusal_on_the_command_line_is_plain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "own.yaml"
    config.write_text('name: own\ntask: {name: "\\e]0;title\\a\\e[2J"}\n')
    assert cli._run(["launch", str(config), "--studies", str(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert "task.name = " in shown.err
    assert obeyed(shown.out + shown.err) == ""
    assert cli._run(["status", f"{tmp_path}/\x1b[2J"]) == 2
    shown = capsys.readouterr()
    assert "no study in" in shown.err and obeyed(shown.err) == ""
