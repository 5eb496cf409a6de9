"""A driver that is killed or asked to end: the same command goes on, and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from pipeline.runtime.signals import Interrupted, interruptible, interruption, raise_again
from tests.support import slow_trainer

TRIALS, SEEDS, STEPS = 7, 2, 4


def write_config(folder: Path, executor: str, seconds: float) -> Path:
    values = {
        "name": "s",
        "trainer": {"function": f"{slow_trainer.__file__}:train"},
        "space": {"methods": ["prefix", "attention"]},
        "ppo": {"steps": STEPS},
        "search": {"trials": TRIALS, "sobol_trials": 2, "seeds": list(range(SEEDS))},
        "confirm": {"seeds": [100]},
        "executor": {"name": executor, "slots": 2},
    }
    values["trainer"]["options"] = {"seconds": seconds, "log": str(folder / "steps.log")}
    folder.mkdir(exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def launch(config: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipeline.cli", "launch", str(config), "--studies", str(config.parent / "studies")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def wait_for_steps(config: Path, process: subprocess.Popen[str], count: int) -> None:
    log = config.parent / "steps.log"
    while process.poll() is None and (not log.exists() or len(log.read_text().splitlines()) < count):
        time.sleep(0.02)


def found(config: Path) -> dict[str, object]:
    """What a study came to: every run's curve, the winner and the verdict's numbers."""
    study = config.parent / "studies" / "s"
    runs = {
        str(path.relative_to(study)): json.loads(path.read_text())["curve"] for path in study.glob("*/*/seed-*.json")
    }
    shapes = {path.parent.name: json.loads(path.read_text())["shape"] for path in study.glob("trials/*/trial.json")}
    verdict = json.loads((study / "verdict.json").read_text())
    winner = json.loads((study / "winner.json").read_text())
    return {"runs": runs, "shapes": shapes, "winner": winner, "differences": verdict["differences"]}


def test_a_study_that_is_stopped_again_and_again_ends_like_one_that_was_left_alone(tmp_path: Path) -> None:
    quiet = write_config(tmp_path / "quiet", "local", 0.0)
    assert launch(quiet).wait() == 0
    config = write_config(tmp_path / "disturbed", "local", 0.02)
    for number, steps in ((signal.SIGKILL, 5), (signal.SIGTERM, 30), (signal.SIGINT, 50)):
        process = launch(config)
        wait_for_steps(config, process, steps)
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
        if number is signal.SIGKILL:
            assert process.returncode == -number
            continue
        assert process.returncode == 128 + number
        assert f"stopped by {number.name} with" in errors and "the same command resumes" in errors
        assert "Traceback" not in errors
    assert launch(config).wait() == 0
    assert found(config) == found(quiet)
    # A step is noted after it was made: a kill in between makes that one step again, and no other.
    made = Counter(line.rsplit(" ", 1)[0] for line in (config.parent / "steps.log").read_text().splitlines())
    assert sum(count - 1 for count in made.values()) <= 3 and max(made.values()) <= 2
    runs = len(found(quiet)["runs"])  # type: ignore[arg-type]
    assert len(made) == runs * STEPS and runs == TRIALS * SEEDS + 4


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_driver_under_ray_leaves_no_process_behind_and_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    config = write_config(tmp_path, "ray", 0.02)
    process = launch(config)
    wait_for_steps(config, process, 10)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    if number is signal.SIGTERM:
        assert process.returncode == 143 and "stopped by SIGTERM with" in errors and "Traceback" not in errors
    workers = {int(line.split()[-1]) for line in (config.parent / "steps.log").read_text().splitlines()}
    until = time.monotonic() + 60
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < until:
        time.sleep(0.2)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert launch(config).wait() == 0
    made = Counter(line.rsplit(" ", 1)[0] for line in (config.parent / "steps.log").read_text().splitlines())
    assert len(made) == (TRIALS * SEEDS + 4) * STEPS
    assert sum(count - 1 for count in made.values()) <= 2


def test_the_first_signal_raises_and_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match=str(int(signal.SIGTERM))) as stop, interruptible():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert stop.value.exit_code == 143 and signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_somebody_swallowed_is_raised_again_until_the_block_ends() -> None:
    with pytest.raises(Interrupted) as stop, interruptible():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except BaseException as error:
            assert isinstance(error, Interrupted)
        raise_again()
    assert stop.value.exit_code == 143
    raise_again()


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_ends_at_once() -> None:
    code = """
import os, signal, time
from pipeline.runtime.signals import Interrupted, interruptible
with interruptible():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except Interrupted:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=50).returncode == 130


def test_an_error_that_a_library_made_of_the_signal_is_still_the_signals() -> None:
    def compiled() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except BaseException:
            raise SystemError("returned a result with an exception set") from None

    with pytest.raises(Interrupted) as stop, interruptible(), interruption(lambda name: f"by {name}", "again"):
        compiled()
    assert (stop.value.message, stop.value.hint, stop.value.exit_code) == ("by SIGTERM", "again", 143)
    with pytest.raises(Interrupted), interruptible():
        compiled()
    with pytest.raises(SystemError), interruptible(), interruption(lambda name: name, ""):
        raise SystemError("of its own")
