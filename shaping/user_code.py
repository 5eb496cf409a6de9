"""Functions of the user's own that a config names: ``package.module:name``, or ``file.py:name``."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from shaping.errors import ConfigError


def load_callable(reference: str, field: str) -> Callable[..., Any]:
    """Return the function or class that a reference names; its module is imported, a file's anew at each call.

    Args:
        reference: ``package.module:name`` or ``file.py:name``.
        field: The config's field that names it, for errors.

    Raises:
        ConfigError: Its module cannot be imported, or holds nothing of that name that can be called.
    """
    place, _, name = reference.rpartition(":")
    found: Any = load_module(place, field)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise ConfigError(f"{field}: {place} has no function {name}", "check its spelling")
    if not callable(found):
        raise ConfigError(f"{field}: {reference} is a {type(found).__name__}", "name a function or a class")
    named: Callable[..., Any] = found
    return named


def load_module(place: str, field: str) -> ModuleType:
    """Return a module: ``package.module``, or a path that ends in ``.py``.

    Raises:
        ConfigError: It cannot be imported, whatever it raises meanwhile; ``field`` names it.
    """
    remedy = "install the package, or name a file: file.py:name"
    try:
        return _file_module(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except SyntaxError as error:
        raise ConfigError(f"{field}: {place}, line {error.lineno} is not Python: {error.msg}", "correct it") from error
    except FileNotFoundError as error:
        raise ConfigError(f"{field}: there is no file {error.filename or place}", remedy) from error
    except (ImportError, OSError) as error:
        raise ConfigError(f"{field}: {place} cannot be imported: {error}", remedy) from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{field}: {place} cannot be imported: {error_and_place(error)}", "correct it") from error


def error_and_place(error: BaseException) -> str:
    """Return the kind of an error that the user's code raised, its words, and its file and line."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words} ({where.filename}, line {where.lineno})"


def _file_module(path: Path) -> ModuleType:
    name = f"shapetune_user_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # Registered first, as dataclasses and pickles in the file look their module up.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
