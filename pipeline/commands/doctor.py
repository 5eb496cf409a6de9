"""What this machine has and lacks for a study."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipeline.runtime.environment import PACKAGES, gpu_names, installed_version
from pipeline.study.folder import FREE_BYTES_NEEDED
from pipeline.tasks.asset_cache import cache_folder

NEEDED_GIB = 6


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what it is, what was found, whether it will do, and what to do if not."""

    name: str
    found: str
    good: bool
    remedy: str = ""


def examine(studies: Path) -> list[Finding]:
    """Return what was found on this machine.

    Args:
        studies: The folder that studies would be written to.
    """
    memory = psutil.virtual_memory().available / 2**30
    findings = [
        Finding("python", platform.python_version(), sys.version_info >= (3, 11), "use Python 3.11 or newer"),
        Finding("cores", str(os.cpu_count()), True),
        Finding("memory", f"{memory:.1f} GiB free", memory >= NEEDED_GIB, f"the quickstart wants {NEEDED_GIB} GiB"),
        _gpu(),
        _folder("cache", cache_folder(), "set SHAPETUNE_CACHE to a folder of yours"),
        _folder("studies", studies, "choose another folder with --studies"),
    ]
    return findings + [_package(name) for name in PACKAGES]


def _gpu() -> Finding:
    """Return what GPU the driver names, and whether the installed torch could use it; torch takes seconds to import."""
    names = gpu_names()
    build = installed_version("torch") or ""
    if not names:
        return Finding("gpu", "none, CPU is used", True)
    usable = "+cpu" not in build
    remedy = "install a build of torch for CUDA: pip install torch"
    found = names[0] if usable else f"{names[0]}, but torch {build} is built for CPUs"
    return Finding("gpu", found, usable, remedy)


def _folder(name: str, folder: Path, remedy: str) -> Finding:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    good = os.access(existing, os.W_OK) and free >= FREE_BYTES_NEEDED
    return Finding(name, f"{folder}, {free / 2**30:.1f} GiB free", good, remedy)


def _package(name: str) -> Finding:
    found = installed_version(name)
    return Finding(name, found or "not installed", found is not None, "pip install shapetune")
