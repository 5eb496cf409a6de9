"""What tests of several benchmarks need."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let work that is saved be done here: fresh processes are tested by themselves, and take seconds to import."""

    @contextmanager
    def here(workers: int) -> Iterator[ThreadPoolExecutor]:
        with ThreadPoolExecutor(1) as pool:
            yield pool

    monkeypatch.setattr("benchmarks.common.cache.processes", here)
