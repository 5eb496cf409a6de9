"""Search spaces: what may vary, one file each, and their registry by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from search_spaces.balance import balance
from search_spaces.base import BaselineArm, Candidate, Fillable, Point, SearchSpace
from search_spaces.credit_mix import CreditMix
from search_spaces.filling import filling
from search_spaces.full import Full
from search_spaces.rivals import is_without_credit
from search_spaces.study_space import StudySpace
from search_spaces.trainer_settings import Setting, SettingChoice, SettingRange
from shaping.errors import ConfigError
from shaping.user_code import load_callable

SPACES: dict[str, Callable[..., SearchSpace]] = {"balance": balance, "credit_mix": CreditMix, "full": Full}
# Options that a space may do without.
OPTIONAL = frozenset({"units", "budget"})


def find_space(name: str) -> Callable[..., SearchSpace]:
    """Return what makes the space of that name; of one's own, ``package.module:factory`` or ``file.py:factory``.

    A factory of one's own takes the keyword arguments of ``CreditMix``, and those of ``Full`` that it names.

    Raises:
        ConfigError: No space has that name, or the factory cannot be imported.
    """
    if name in SPACES:
        return SPACES[name]
    if ":" not in name:
        raise ConfigError(
            f"space.name: {name!r} is unknown",
            f"choose one of {', '.join(sorted(SPACES))}, or write package.module:factory",
        )
    return load_callable(name, "space.name")


def make_space(name: str, **options: Any) -> SearchSpace:
    """Return the space of that name.

    Raises:
        ConfigError: No space has that name, or an option cannot be used.
    """
    factory = find_space(name)
    taken = inspect.signature(factory).parameters
    return factory(**{key: value for key, value in options.items() if key in taken or key not in OPTIONAL})


__all__ = [
    "SPACES",
    "BaselineArm",
    "Candidate",
    "CreditMix",
    "Fillable",
    "Full",
    "Point",
    "SearchSpace",
    "Setting",
    "SettingChoice",
    "SettingRange",
    "StudySpace",
    "filling",
    "find_space",
    "is_without_credit",
    "make_space",
]
