"""Search spaces: what may vary, one file each, and their registry by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from search_spaces.balance import balance
from search_spaces.base import BaselineArm, Point, SearchSpace
from search_spaces.credit_mix import CreditMix
from shaping.errors import ConfigError

SPACES: dict[str, Callable[..., SearchSpace]] = {"balance": balance, "credit_mix": CreditMix}


def make_space(name: str, **options: Any) -> SearchSpace:
    """Return the space of that name.

    Raises:
        ConfigError: No space has that name, or an option cannot be used.
    """
    if name not in SPACES:
        raise ConfigError(f"space.name: {name!r} is unknown", f"choose one of {', '.join(sorted(SPACES))}")
    return SPACES[name](**options)


__all__ = ["SPACES", "BaselineArm", "CreditMix", "Point", "SearchSpace", "make_space"]
