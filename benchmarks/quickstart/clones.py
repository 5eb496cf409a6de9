"""Fresh clones with an empty cache in which ``make quickstart`` is called, as a newcomer does, with a clock."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.common.cache import ROOT
from benchmarks.quickstart.studies import STUDIES
from pipeline.runtime.files import read_json

# How the lines begin that a newcomer waits for.
FIRST_TRIAL, VERDICT = "trial ", "arm, on fresh seeds"
INSTALLED = "shapetune launch"


@dataclass(frozen=True)
class Timing:
    """Seconds since ``git clone`` began.

    Attributes:
        install_seconds: Until the command was installed.
        first_trial_seconds: Until the line of the first trial that ended.
        total_seconds: Until the verdict.
        report_seconds: Until report and export were written.
    """

    install_seconds: float
    first_trial_seconds: float
    total_seconds: float
    report_seconds: float


def timed_clone(log: Path) -> Timing:
    """Return how long a fresh clone takes.

    Args:
        log: Gets what was printed.

    Raises:
        CalledProcessError: A command failed.
    """
    with tempfile.TemporaryDirectory(prefix="shapetune-clone-") as folder:
        clone, seen = Path(folder) / "shapetune", dict[str, float]()
        # Colours would stand between us and the words.
        environment = {**os.environ, "SHAPETUNE_CACHE": f"{folder}/cache", "NO_COLOR": "1", "COLUMNS": "120"}
        environment.pop("VIRTUAL_ENV", None)
        started = time.perf_counter()
        cloning, command = ["git", "clone", "--quiet", str(ROOT), str(clone)], ["make", "quickstart"]
        subprocess.run(cloning, check=True)
        with (
            log.open("w") as kept,
            subprocess.Popen(command, cwd=clone, env=environment, stdout=subprocess.PIPE, text=True) as running,
        ):
            assert running.stdout is not None
            for line in running.stdout:
                kept.write(line)
                for start in (INSTALLED, FIRST_TRIAL, VERDICT):
                    if start in line:
                        seen.setdefault(start, time.perf_counter() - started)
        if running.returncode:
            raise subprocess.CalledProcessError(running.returncode, "make quickstart")
        return Timing(seen[INSTALLED], seen[FIRST_TRIAL], seen[VERDICT], time.perf_counter() - started)


def timed_clones(count: int) -> list[Timing]:
    """Return ``count`` timings; those that were measured before are not measured again."""
    kept = STUDIES / "clones.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    found = [Timing(**each) for each in read_json(kept) or ()]
    while len(found) < count:
        found.append(timed_clone(STUDIES / f"clone-{len(found)}.log"))
        kept.write_text(json.dumps([asdict(each) for each in found]))
    return found[:count]
