"""A home for the tests: what libraries keep in the user's goes into a temporary folder, for as long as they run."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from pipeline.tasks.asset_cache import cache_folder

# The user's own, for every process of the tests that starts later.
REAL = "SHAPETUNE_TESTS_REAL_HOME"
# Where programs put what they keep for a user.
PLACES = (".", ".cache", ".config", ".local", ".local/share", ".local/state", ".ray", ".shapetune")
XDG = {"CACHE": ".cache", "CONFIG": ".config", "DATA": ".local/share", "STATE": ".local/state"}


def variables_of_a_home() -> dict[str, str]:
    """Make a home, which goes when this process ends, and return the variables that lead there.

    Downloads are not made again: the caches of shapetune and pip, and what pip and git were told, stay the user's.
    A process that one of the tests started has them all, and makes none.
    """
    if REAL in os.environ:
        return {}
    real, made = Path.home(), Path(tempfile.mkdtemp(prefix="shapetune-home-"))
    atexit.register(_remove, made, os.getpid())
    found = {REAL: str(real), "HOME": str(made), "SHAPETUNE_CACHE": str(cache_folder().absolute())}
    user_cache, user_config = (
        Path(os.environ.get(f"XDG_{name}_HOME") or real / XDG[name]) for name in ("CACHE", "CONFIG")
    )
    stay = {
        "PIP_CACHE_DIR": [user_cache / "pip"],
        "PIP_CONFIG_FILE": [user_config / "pip" / "pip.conf", real / ".pip" / "pip.conf"],
        "GIT_CONFIG_GLOBAL": [real / ".gitconfig", user_config / "git" / "config"],
    }
    for name, places in stay.items():
        place = next((place for place in places if place.exists()), None)
        if place is not None and name not in os.environ:
            found[name] = str(place)
    # Programs look there first, where the user has set them.
    moved = {f"XDG_{name}_HOME": str(made / place) for name, place in XDG.items()}
    return found | {name: place for name, place in moved.items() if name in os.environ}


def _remove(made: Path, maker: int) -> None:
    # A fork of the maker ends, too.
    if os.getpid() == maker:
        shutil.rmtree(made, ignore_errors=True)


def real_home() -> Path:
    """Return the user's home."""
    return Path(os.environ[REAL])


def entries(home: Path) -> set[str]:
    """Return what stands in a home, where programs put what they keep; shapetune's cache is the tests' to fill."""
    kept = Path(os.environ.get("SHAPETUNE_CACHE", ""))
    found = {path for place in PLACES if (home / place).is_dir() for path in (home / place).iterdir()}
    return {str(path.relative_to(home)) for path in found if path != kept and path not in kept.parents}
