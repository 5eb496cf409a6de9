"""What tests of whole studies need."""

from __future__ import annotations

import pytest


@pytest.fixture
def without_ax_analyses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave Ax's own analyses out of reports: they take seconds each, and tests of the report look at them."""
    monkeypatch.setattr("pipeline.search.ax_analyses.ax_analyses", lambda outer: ())
