"""Work that is saved: a benchmark that is told to end leaves no process behind and loses nothing that it wrote."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from benchmarks.common.cache import each_done

ROOT = Path(__file__).parents[2]
# A job's.
SECONDS = 1.0
SCRIPT = """
import sys
from pathlib import Path
from benchmarks.common.cache import each_done
from tests.benchmarks.test_cache import slow
if __name__ == "__main__":
    for done in each_done(slow, list(range(50)), str, Path(sys.argv[1]), 2):
        print(done.number, flush=True)
"""


@dataclass(frozen=True)
class Done:
    number: int

    def line(self) -> str:
        return str(self.number)


def slow(number: int, mark: str) -> Done:
    folder = os.environ.get("BEGUN")
    if folder:
        Path(folder, str(number)).touch()
    time.sleep(SECONDS)
    return Done(number)


def test_every_job_stands_in_the_file_once_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "saved"
    for done in each_done(slow, [3, 4], str, path, 1):
        assert str(done.number) in path.read_text().split()
    assert sorted(path.read_text().split()) == ["3", "4"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_benchmark_that_is_told_to_end_takes_its_workers_along(number: signal.Signals, tmp_path: Path) -> None:
    path, begun = tmp_path / "saved", tmp_path / "begun"
    begun.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(path)],
        cwd=ROOT,
        env={**os.environ, "BEGUN": str(begun)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    told = process.stdout.readline().strip()
    workers = psutil.Process(process.pid).children(recursive=True)
    assert workers
    process.send_signal(number)
    time.sleep(SECONDS / 2)
    at_the_signal = sorted(each.name for each in begun.iterdir())
    process.wait(timeout=60)
    assert process.returncode != 0
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive, alive
    saved = path.read_text().split()
    assert told in saved and len(saved) < 50
    # What had begun was ended and saved, and nothing else began: not even what the pool would have had in reserve.
    assert sorted(saved) == at_the_signal == sorted(each.name for each in begun.iterdir())
