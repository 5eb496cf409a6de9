"""Nested values under names with dots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def dotted(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return nested values, flat: ``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= dotted(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value
    return found
