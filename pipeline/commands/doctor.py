"""What this machine has and lacks for a study."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from pipeline.runtime.environment import PACKAGES, installed_version
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
        Finding("gpu", torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none, CPU is used", True),
        _folder("cache", cache_folder(), "set SHAPETUNE_CACHE to a folder of yours"),
        _folder("studies", studies, "choose another folder with --studies"),
    ]
    return findings + [_package(name) for name in PACKAGES]


def _folder(name: str, folder: Path, remedy: str) -> Finding:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    good = os.access(existing, os.W_OK) and free >= FREE_BYTES_NEEDED
    return Finding(name, f"{folder}, {free / 2**30:.1f} GiB free", good, remedy)


def _package(name: str) -> Finding:
    found = installed_version(name)
    return Finding(name, found or "not installed", found is not None, "pip install shapetune")
