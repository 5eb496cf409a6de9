"""Which tests may start a browser, a database server or Ray: those of every day go without."""

from __future__ import annotations

import pytest

MARK = "slow"
_running: list[pytest.Item] = []


def runs(item: pytest.Item) -> None:
    """Take note of the test that runs now."""
    _running[:] = [item]


def starts(what: str) -> None:
    """Fail a test that starts something and is not marked as one that does."""
    if _running and _running[0].get_closest_marker(MARK) is None:
        pytest.fail(f"{_running[0].nodeid} starts {what}: mark it as {MARK}", pytrace=False)
