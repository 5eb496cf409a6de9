"""What this process runs on and with: machine, precision, versions of packages, and the commit of the code."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    import torch

# What results depend on, as the package index names them.
PACKAGES = ("shapetune", "torch", "transformers", "trl", "ax-platform", "botorch", "gpytorch", "ray", "plotly")
GIT_SECONDS = 10
HERE = Path(__file__).resolve()


def where(device: torch.device | None, precision: str) -> dict[str, Any]:
    """Return host, process, processor or GPU, the GPUs this process may see, and precision; of torch what it says.

    Args:
        device: ``None`` for a trainer of one's own, which says nothing of it.
        precision: In words.
    """
    found = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "device": platform.machine(),
        "visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "precision": precision,
    }
    # A trainer of one's own may do without torch, which takes seconds to import.
    torch = sys.modules.get("torch")
    if torch is not None:
        found |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
        if device is not None and device.type == "cuda":
            found["device"] = torch.cuda.get_device_name(device)
    return found


def found_here() -> dict[str, Any]:
    """Return the versions of what matters, the code's commit and this machine, as plain values."""
    return {
        "python": platform.python_version(),
        "versions": installed_versions(),
        "commit": code_commit(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "processors": os.cpu_count() or 1,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": gpu_names(),
    }


def installed_versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on, as far as they are installed."""
    return {name: found for name in PACKAGES if (found := installed_version(name)) is not None}


def installed_version(name: str) -> str | None:
    """Return a package's version, or ``None`` where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def code_commit() -> str | None:
    """Return the commit of the checkout that this code runs from, with ``-dirty`` where its files were changed.

    ``None`` where it runs from no checkout: an installed copy may lie inside a repository that is another project's.
    """
    if _git("ls-files", "--error-unmatch", HERE.name) is None:
        return None
    # No tags: they would stand in for the commit.
    return _git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


def _git(*arguments: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    # A hook that launches a study has its own repository in the environment.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = [git, "-C", str(HERE.parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=plain, timeout=GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _processor() -> str:
    names = _values(Path("/proc/cpuinfo"), "model name")
    return names[0] if names else platform.processor() or platform.machine()


def gpu_names() -> list[str]:
    """Return the names of NVIDIA's GPUs; asking torch would take memory of each."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return [name for file in files for name in _values(file, "Model")[:1]]


def _values(file: Path, key: str) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    pairs = (line.partition(":") for line in lines)
    return [value.strip() for name, _, value in pairs if name.strip() == key]
