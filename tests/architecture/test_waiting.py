"""Tests that wait say what did not happen, and tests of what could not start say that it could not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.servers import starting
from tests.support.waiting import CouldNotStart, wait_until


def test_what_did_not_happen_is_named() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"in vain: the sun rises \(waited 0 seconds\); 3 a\.m\."):
        wait_until(lambda: False, "the sun rises", seconds=0.0, log=lambda: "3 a.m.")


def test_nobody_waits_for_a_process_that_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as process:
        with pytest.raises(pytest.fail.Exception, match=r"it answers \(its process ended with 3"):
            wait_until(lambda: False, "it answers", process=process)
        assert wait_until(lambda: "what it left", "it answers", process=process) == "what it left"


def test_the_log_of_what_could_not_start_is_told_once() -> None:
    error = CouldNotStart("the cluster could not start", "\n".join(map(str, range(100))))
    first, second = error.told(), error.told()
    assert first.startswith("the cluster could not start: 75\n") and first.endswith("\n99")
    assert second == "the cluster could not start: as above"


def test_a_test_of_every_day_may_start_nothing() -> None:
    with pytest.raises(pytest.fail.Exception, match="may_start_nothing starts a browser: mark it as slow"):
        starting.starts("a browser")
