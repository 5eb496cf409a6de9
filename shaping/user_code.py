"""Modules of the user's own that a config names."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from shaping.errors import ConfigError


def own_module(place: str, field: str) -> ModuleType:
    """Return a module of the user's own: ``package.module`` or a path that ends in ``.py``.

    Raises:
        ConfigError: It cannot be imported; ``field`` names it.
    """
    try:
        return _file_module(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except (ImportError, OSError) as error:
        remedy = "install the package, or name a file: rewards.py:name"
        raise ConfigError(f"{field}: {place} cannot be imported: {error}", remedy) from error
    except SyntaxError as error:
        raise ConfigError(f"{field}: {place}, line {error.lineno} is not Python: {error.msg}", "correct it") from error


def _file_module(path: Path) -> ModuleType:
    name = f"shapetune_reward_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
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
