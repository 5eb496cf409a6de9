"""A study's folder as a search and a confirmation leave it, without any training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.reports.synthetic_study import SyntheticStudy


@pytest.fixture
def study(tmp_path: Path) -> SyntheticStudy:
    """A study that was launched and has run nothing."""
    return SyntheticStudy(tmp_path / "synthetic")


@pytest.fixture
def whole_study(study: SyntheticStudy) -> SyntheticStudy:
    """A study that ran to its end."""
    study.search()
    study.confirm()
    study.tokens()
    return study


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[..., SyntheticStudy]:
    """Make a study whose config has the given changes."""
    return lambda **changes: SyntheticStudy(tmp_path / "changed", **changes)
