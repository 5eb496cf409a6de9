"""Search spaces: what may vary, one file each, and their registry by name."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from search_spaces.balance import balance
from search_spaces.base import BaselineArm, Fillable, Point, SearchSpace
from search_spaces.credit_mix import CreditMix
from search_spaces.filling import filling
from search_spaces.full import Full
from shaping.errors import ConfigError

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
    try:
        found = _from_file(name) if name.rpartition(":")[0].endswith(".py") else resolve_name(name)
    # A module of one's own may raise anything while it is imported.
    except Exception as error:
        raise ConfigError(f"space.name = {name}: {error}", "install its package, or correct the path") from error
    if not callable(found):
        raise ConfigError(f"space.name = {name} is a {type(found).__name__}, no factory", "name a function or a class")
    return found  # type: ignore[no-any-return]


def _from_file(name: str) -> Any:
    file, _, factory = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    # Dataclasses look their module up while they are made.
    sys.modules.setdefault(spec.name, module)
    spec.loader.exec_module(module)
    return getattr(module, factory)


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
    "CreditMix",
    "Fillable",
    "Full",
    "Point",
    "SearchSpace",
    "filling",
    "find_space",
    "make_space",
]
