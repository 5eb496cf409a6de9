"""Environments of the production trainers: each framework's real packages, beside those of the tests.

A framework's requirements are pinned and installed without their dependencies; whatever is not among them comes from
the environment of the tests, so that torch is not installed again for each. What a framework brings goes first.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from tests.support.waiting import LIMIT_SECONDS, CouldNotStart

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FOLDER = Path(os.environ.get("SHAPETUNE_TEST_FRAMEWORKS", ROOT / "build" / "frameworks"))


def python_of(framework: str) -> Path:
    """Return the interpreter of a framework's environment, which is made where it is missing or out of date."""
    requirements = HERE / "requirements" / f"{framework}.txt"
    wanted = hashlib.sha256(f"{requirements.read_text()} {sys.version} {sys.prefix}".encode()).hexdigest()
    folder = FOLDER / framework
    python, mark = folder / "bin" / "python", folder / "installed"
    if mark.exists() and mark.read_text() == wanted:
        return python
    made = f"the environment of {framework} could not be made"
    _run(made, [sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)])
    purelib = Path(_run(made, [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
    # A path file's entries come after the environment's own packages.
    (purelib / "tests.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check"]
    # Most of what they bring is never imported: compiling all of it takes longer than installing it.
    _run(made, [*pip, "--no-compile", "--no-deps", "--ignore-installed", "--requirement", str(requirements)])
    mark.write_text(wanted)
    return python


def answer_of(framework: str, script: str, *arguments: str) -> Any:
    """Return what a script of ``tests/adapters/scripts`` prints, as JSON, on the last line of its output."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [str(python_of(framework)), str(HERE / "scripts" / script), *arguments]
    said = _run(f"{framework}'s own packages gave no answer", command, cwd=ROOT, env=environment)
    return json.loads(said.strip().splitlines()[-1])


def _run(otherwise: str, command: list[str], **options: Any) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=2 * LIMIT_SECONDS, check=False, **options
        )
    except subprocess.TimeoutExpired as error:
        raise CouldNotStart(f"{otherwise}: {' '.join(command)} is not done after {error.timeout:g} seconds") from error
    if done.returncode:
        ended = f"{otherwise}: {' '.join(command)} ended with {done.returncode}"
        raise CouldNotStart(ended, f"{done.stdout}\n{done.stderr}")
    return done.stdout
