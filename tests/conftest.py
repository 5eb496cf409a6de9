"""Fixtures shared by all tests: one thread, and tiny models built once for the whole run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell's background jobs ignore SIGINT, and so would every process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import torch
from playwright.sync_api import Browser

from pipeline.tasks.asset_cache import cache_folder
from pipeline.tasks.sentiment.task import build_sentiment
from pipeline.tasks.settings import Recipe
from tests.support.servers.browser import launched
from tests.support.servers.fixtures import postgres, postgres_server, proxy  # noqa: F401  (fixtures are found by name)

TINY_RECIPE = {
    "vocabulary": 400,
    "hidden_size": 16,
    "intermediate_size": 32,
    "layers": 2,
    "heads": 2,
    "policy_epochs": 1,
    "reward_epochs": 1,
    "max_reviews": 600,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take minutes, so that none of them is left to one process at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_assets() -> Path:
    """The folder of a tiny sentiment task; downloads the reviews when the machine has no copy."""
    return build_sentiment(Recipe(**TINY_RECIPE), cache_folder())


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser for all tests of a process."""
    with launched() as opened:
        yield opened
