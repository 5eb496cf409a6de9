"""What a terminal of 80 columns shows of a study, once and while it runs; and the same as values for a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType
from rich.text import Text

from pipeline.cli import _run
from pipeline.commands.status import folded_shape, status_view
from pipeline.runtime.console import watch
from pipeline.runtime.csv import write_csv
from pipeline.study.folder import StudyFolder
from pipeline.study.status import read_standing, read_status
from pipeline.trials.arm import Arm
from shaping.shape import Shape
from tests.support.reports.synthetic_study import SyntheticStudy
from tests.support.trial_files import SHAPE, Trials
from tests.support.waiting import LIMIT_SECONDS, wait_until

MIX = Shape(weights={"attention": 0.28, "prefix": 0.25, "shapley": 0.25, "owen": 0.22}, gae_lambda=0.6)
RUNS = [
    {"stage": "search", "index": 4, "arm": "4_0", "seed": 0, "done_steps": 7},
    {"stage": "search", "index": 4, "arm": "4_0", "seed": 1, "done_steps": 4},
]


@pytest.fixture
def trials(tmp_path: Path) -> Trials:
    found = Trials(tmp_path / "study")
    found.all_kinds()
    return found


def tell(folder: StudyFolder, runs: list[dict[str, Any]], seconds: float | None = 230.0, confirmed: int = 0) -> None:
    """Write what a launch says of itself: 6 trials of 2 seeds, then 5 arms on 2 fresh seeds, 10 steps each."""
    stages = {
        "search": {"done_steps": 80, "total_steps": 120},
        "confirm": {"done_steps": confirmed, "total_steps": 100},
    }
    kept = {"run_steps": 10, "stages": stages, "runs": runs, "seconds_left": seconds}
    folder.progress_file.write_text(json.dumps(kept))


def shown(folder: StudyFolder, width: int = 80, height: int | None = None) -> list[str]:
    written = io.StringIO()
    Console(file=written, width=width, highlight=False).print(status_view(read_standing(folder), width, height))
    return [line.rstrip() for line in written.getvalue().splitlines()]


def test_a_running_trial_shows_its_steps_and_the_head_what_is_done_and_left(trials: Trials) -> None:
    tell(trials.folder, RUNS)
    with trials.folder.locked():
        lines = shown(trials.folder)
    assert lines[0] == "tiny: searching shapes: 3 of 6 trials done, about 4 min left"
    assert lines[1].startswith(f"runs on host {socket.gethostname()}, process ")
    assert re.search(r"^ +4  model +11 of 20 steps", "\n".join(lines), flags=re.MULTILINE)


def test_finished_seeds_count_in_full_and_what_was_out_when_they_ended_does_not(trials: Trials) -> None:
    tell(trials.folder, RUNS)
    (trials.folder.trial_folder(4) / "seed-0.json").write_text("{}")
    row = read_status(trials.folder)[4]
    assert (row["state"], row["steps"], row["total_steps"]) == ("running", 14, 20)
    trials.folder.progress_file.unlink()
    assert read_status(trials.folder)[4]["steps"] == 10


def test_what_no_process_runs_is_unfinished_and_nobody_promises_its_end(trials: Trials) -> None:
    tell(trials.folder, RUNS)
    lines = shown(trials.folder)
    assert lines[0] == "tiny: not running: 3 of 6 trials done" and "resumes it" in lines[1]
    assert re.search(r"^ +4  model +unfinished", "\n".join(lines), flags=re.MULTILINE)


def test_without_an_estimate_no_time_is_told(trials: Trials) -> None:
    tell(trials.folder, RUNS, seconds=None)
    with trials.folder.locked():
        assert shown(trials.folder)[0] == "tiny: searching shapes: 3 of 6 trials done"


def test_the_confirmation_tells_how_many_of_its_runs_are_done_and_which_are_out(tmp_path: Path) -> None:
    trials = Trials(tmp_path / "study")
    for index in range(6):
        trials.write(index, "model", failure={"reason": "nan", "detail": "x"}) if index else trials.write(0, "model")
    result = {"metrics": {"objective": [0.5, None], "kl_nats": [3.0, None]}, "arm": Arm("0_0", SHAPE).to_dict()}
    (trials.folder.trial_folder(0) / "result.json").write_text(json.dumps(result))
    for seed in (100, 101):
        place = trials.folder.confirm_folder("winner", seed)
        place.mkdir(parents=True)
        (place / "result.json").write_text("{}")
    run = {"stage": "confirm", "index": -1, "arm": "sparse", "seed": 100, "done_steps": 3}
    tell(trials.folder, [run], confirmed=20)
    with trials.folder.locked():
        lines = shown(trials.folder)
    assert lines[0] == "tiny: confirming on fresh seeds: 2 of 10 runs done, about 4 min left"
    assert lines[2] == "now: sparse, seed 100: 3 of 10 steps"


def test_a_study_at_its_end_says_so_with_its_verdict(tmp_path: Path) -> None:
    study = SyntheticStudy(tmp_path / "study", search={"trials": 8, "seeds": [0, 1]})
    study.search()
    for index in (8, 9, 10, 11):
        (study.folder.trial_folder(index) / "trial.json").unlink()
        for path in study.folder.trial_folder(index).glob("*"):
            path.unlink()
        study.folder.trial_folder(index).rmdir()
    for path in study.folder.trials.glob("*/result.json"):
        kept = json.loads(path.read_text())
        kept["metrics"] = {"objective": [0.5, 0.1], "kl_nats": [-0.04, None]}
        path.write_text(json.dumps(kept))
    assert read_standing(study.folder).stage == "not running"
    study.confirm()
    study.write(study.folder.winner_file, {**study.winner().to_dict(), "trials": 8})
    standing, lines = read_standing(study.folder), shown(study.folder)
    assert standing.ended and lines[0].startswith("synthetic: ended: 8 of 8 trials done, 24 runs on fresh seeds")
    assert "beats every baseline" in lines[-1]
    # The search was given more trials.
    study.write(study.folder.winner_file, {**study.winner().to_dict(), "trials": 4})
    assert not read_standing(study.folder).ended
    # Zero has no sign, whatever it was rounded from.
    assert all(" 0.0 " in line and "-0.0" not in line for line in lines if "baseline  +" in line)


def test_a_study_whose_trials_all_failed_has_ended(tmp_path: Path) -> None:
    trials = Trials(tmp_path / "study")
    for index in range(6):
        assert read_standing(trials.folder).ended is False
        trials.write(index, "sobol", failure={"reason": "nan", "detail": "the loss is nan"})
    lines = shown(trials.folder)
    assert lines[0] == "tiny: ended: 6 of 6 trials done" and not any("best" in line for line in lines)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_line_is_too_long_and_no_shape_is_cut_inside_a_method(width: int, trials: Trials) -> None:
    result = {"metrics": {"objective": [0.5, 0.25], "kl_nats": [123.4, None]}, "arm": Arm("5_0", MIX).to_dict()}
    trials.write(5, "an origin that is far too long to be true", result=result)
    lines = shown(trials.folder, width)
    assert max(map(len, lines)) <= width
    text = " ".join("\n".join(lines).split())
    assert all(f"{share:.2f} {name}" in text for name, share in MIX.active_methods().items())
    for line in lines:
        assert not re.search(r"\d\.\d\d$", line) or "lambda" in line or "±" in line or "best" in line
    heading = next(line for line in lines if line.startswith("trial"))
    assert heading.split()[:4] == ["trial", "origin", "J", "KL"]


def test_a_shape_is_cut_between_its_methods() -> None:
    assert folded_shape("0.08 attention + 0.39 prefix + 0.32 shapley, lambda 0.73", 33) == [
        "0.08 attention + 0.39 prefix +",
        "0.32 shapley, lambda 0.73",
    ]
    assert folded_shape("", 30) == []


def test_a_low_window_shows_the_last_trials_and_says_what_it_leaves_out(trials: Trials) -> None:
    whole = shown(trials.folder)
    assert shown(trials.folder, height=len(whole)) == whole
    low = shown(trials.folder, height=11)
    assert len(low) <= 11 and any(re.match(r"the first \d trials are not shown", line) for line in low)
    assert any(line.startswith("    4  model") for line in low) and low[-1].startswith("best observed J so far: +0.500")


def test_a_watch_redraws_until_nobody_runs_the_study() -> None:
    pictures: list[int | None] = []
    waited: list[float] = []

    def look(height: int | None) -> tuple[RenderableType, bool]:
        pictures.append(height)
        return Text(f"picture {len(pictures)}"), len(pictures) < 3

    written = io.StringIO()
    watch(look, Console(file=written, width=80, height=24), waited.append)
    # In the window's height while it runs, whole at the end; only that is left where nothing can be redrawn.
    assert pictures == [23, 23, 23, None] and len(waited) == 2
    assert written.getvalue() == "picture 4\n"


def test_a_watch_is_ended_by_ctrl_c_with_the_exit_code_of_all_commands(trials: Trials) -> None:
    with trials.folder.locked():
        command = [sys.executable, "-m", "pipeline.cli", "status", str(trials.folder.root), "--watch"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            handled = Path(f"/proc/{process.pid}/status")
            # Python handles SIGINT from its start; SIGTERM only once the command's own handlers stand.
            wait_until(lambda: _catches(handled.read_text(), signal.SIGTERM), "the command handles signals")
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 130 and errors == "error: stopped by SIGINT\n"


def _catches(status: str, number: signal.Signals) -> bool:
    found = re.search(r"^SigCgt:\s*(\w+)", status, flags=re.MULTILINE)
    return found is not None and bool(int(found[1], 16) & 1 << (number - 1))


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_has_the_fields_of_json_flat(trials: Trials, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(trials.folder.root)
    assert _run(["status", folder, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert _run(["status", folder, "--csv"]) == 0
    flat = read_csv(capsys.readouterr().out)
    assert len(flat) == len(rows)
    for row, found in zip(rows, flat, strict=True):
        weights = row["shape"].pop("weights")
        plain = {**row, **{f"shape.{k}": v for k, v in row.pop("shape").items()}}
        plain |= {f"shape.weights.{name}": share for name, share in weights.items()}
        del plain["shape"]
        assert set(plain) == set(found)
        assert all(found[name] == ("" if value is None else str(value)) for name, value in plain.items())
    # A number below zero is no formula.
    assert flat[2]["projected_J"] == "-0.125"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\n=1", "\r=1", "＝1"])
def test_a_text_never_becomes_a_formula(text: str) -> None:
    written = io.StringIO()
    write_csv([{text: text, "inside": {text: 1.5}, "number": -2.0}], written)
    [row] = read_csv(written.getvalue())
    assert all(value[0] not in "=+-@\t\r\n＝" for value in (*row, *row.values()) if value not in ("1.5", "-2.0"))
    assert list(row.values())[1:] == ["1.5", "-2.0"] and not set(written.getvalue()) & set("\r\x1b")


def test_texts_survive_quotes_commas_and_lines_and_move_no_terminal() -> None:
    written = io.StringIO()
    write_csv([{"a": 'x, "y"\nz', "b": None}, {"a": "\x1b[2J", "c": 1}, {"c": {"d": 2}}], written)
    rows = read_csv(written.getvalue())
    assert rows[0]["a"] == 'x, "y"\nz' and rows[1]["a"] == "\\x1b[2J" and rows[2]["c.d"] == "2"
    write_csv([], io.StringIO())


@pytest.mark.parametrize("arguments", [["--json", "--csv"], ["--watch", "--json"], ["--watch", "--csv"]])
def test_forms_that_exclude_each_other_are_refused(
    arguments: list[str], trials: Trials, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(["status", str(trials.folder.root), *arguments]) == 2
    assert "cannot be had together" in capsys.readouterr().err
