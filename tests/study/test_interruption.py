"""A driver that is killed or asked to end: the same command goes on, and ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from pipeline.runtime.signals import Interrupted, interruptible, interruption, raise_again
from tests.support.launches import SEEDS, STEPS, TRIALS, found, launch, launched, write_config
from tests.support.servers.commands import Command
from tests.support.waiting import LIMIT_SECONDS, lines_of, wait_until


def wait_for_steps(config: Path, process: Command, count: int) -> None:
    log = config.parent / "steps.log"
    wait_until(lambda: len(lines_of(log)) >= count, f"{count} steps are made", process=process)


@pytest.mark.slow
def test_a_study_that_is_stopped_again_and_again_ends_like_one_that_was_left_alone(tmp_path: Path) -> None:
    quiet = write_config(tmp_path / "quiet", "local", 0.0)
    launched(quiet)
    config = write_config(tmp_path / "disturbed", "local", 0.02)
    for number, steps in ((signal.SIGKILL, 5), (signal.SIGTERM, 30), (signal.SIGINT, 50)):
        process = launch(config)
        wait_for_steps(config, process, steps)
        process.send_signal(number)
        process.wait()
        errors = process.errors()
        if number is signal.SIGKILL:
            assert process.returncode == -number
            continue
        assert process.returncode == 128 + number
        assert f"stopped by {number.name} with" in errors and "the same command resumes" in errors
        assert "Traceback" not in errors
    launched(config)
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
    process.wait()
    errors = process.errors()
    if number is signal.SIGTERM:
        assert process.returncode == 143 and "stopped by SIGTERM with" in errors and "Traceback" not in errors
    workers = {int(line.split()[-1]) for line in (config.parent / "steps.log").read_text().splitlines()}
    wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), "no worker is left")
    launched(config)
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
        time.sleep(600)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=LIMIT_SECONDS).returncode == 130


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
