"""Silence for libraries whose progress lines and warnings a user can do nothing about."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_libraries(level: int = logging.WARNING) -> Iterator[None]:
    """Drop log lines up to a level, and warnings, from every library while the block runs."""
    before = logging.root.manager.disable
    # Ax sets levels on its own loggers, so only a global floor reaches them all.
    logging.disable(level)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)
