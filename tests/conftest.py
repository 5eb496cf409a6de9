"""Fixtures shared by all tests: one thread, a home of their own, and tiny models built once for the whole run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.home import entries, real_home, variables_of_a_home
from tests.support.servers import starting
from tests.support.servers.ray_limits import PATIENT
from tests.support.waiting import CouldNotStart

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before libraries are imported, which look for the home, and Ray for its limits, as soon as they are.
os.environ.update(variables_of_a_home())
os.environ.update(PATIENT)

# A shell's background jobs ignore SIGINT, and so would every process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import torch
from playwright.sync_api import Browser

from pipeline.tasks.asset_cache import cache_folder
from pipeline.tasks.sentiment.task import build_sentiment
from pipeline.tasks.settings import Recipe
from shaping.reward_models import trial
from tests.support.servers.browser import launched
from tests.support.servers.fixtures import postgres, postgres_server, proxy  # noqa: F401  (fixtures are found by name)
from tests.support.studies import TINY_RECIPE

# Fixtures that start something, which tests of every day go without.
STARTING = {"browser", "postgres", "postgres_server", "proxy"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take minutes, so that none of them is left to one process at the end."""
    for item in items:
        if STARTING & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Remember which test runs: some may not start anything."""
    starting.runs(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Say of what could not start that it could not, in place of where in our helpers that was noticed."""
    report = yield
    if call.excinfo is not None and isinstance(call.excinfo.value, CouldNotStart):
        report.longrepr = call.excinfo.value.told()
    return report


@pytest.fixture(scope="session", autouse=True)
def _the_users_home_stays_as_it_is() -> Iterator[None]:
    before = entries(real_home())
    yield
    new = sorted(entries(real_home()) - before)
    if new:
        pytest.fail(f"new in {real_home()}, which tests are to leave as it is: {', '.join(new)}", pytrace=False)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def without_ax_analyses() -> Iterator[None]:
    """Leave Ax's own analyses out of reports: they take seconds each, and tests of the report look at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.search.ax_analyses.ax_analyses", lambda outer: ())
        yield


@pytest.fixture(autouse=True)
def _no_trials(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a reward model pass its trials unseen, but where tests are about them: thousands make a model anew.

    Each of those would be tried for longer than its test takes. Processes that a test starts try theirs.
    """
    about = {"reward_models", "test_families.py"} & set(request.path.parts)
    if not about and request.node.get_closest_marker("trials") is None:
        monkeypatch.setattr(trial.Trials, "_reason", lambda *_: "")


@pytest.fixture(scope="session")
def tiny_assets() -> Path:
    """The folder of a tiny sentiment task; downloads the reviews when the machine has no copy."""
    return build_sentiment(Recipe(**TINY_RECIPE), cache_folder())


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser for all tests of a process."""
    with launched() as opened:
        yield opened
