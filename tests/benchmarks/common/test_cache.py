"""Work that is saved: a benchmark that is told to end leaves no process behind and loses nothing that it wrote."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.common.cache import each_done
from tests.support.slow_jobs import HELD_FROM, slow
from tests.support.waiting import LIMIT_SECONDS, wait_until

ROOT = Path(__file__).parents[3]
SCRIPT = """
import sys
from pathlib import Path
from benchmarks.common.cache import each_done
from tests.support.slow_jobs import slow
if __name__ == "__main__":
    for done in each_done(slow, list(range(50)), str, Path(sys.argv[1]), 2):
        print(done.number, flush=True)
"""


def test_every_job_stands_in_the_file_once_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "saved"
    for done in each_done(slow, [3, 4], str, path, 1):
        assert str(done.number) in path.read_text().split()
    assert sorted(path.read_text().split()) == ["3", "4"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_benchmark_that_is_told_to_end_takes_its_workers_along(number: signal.Signals, tmp_path: Path) -> None:
    path, begun = tmp_path / "saved", tmp_path / "begun"
    begun.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(path)],
        cwd=ROOT,
        env={**os.environ, "BEGUN": str(begun)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    told = process.stdout.readline().strip()
    wait_until(lambda: len(list(begun.iterdir())) == HELD_FROM + 2, "both workers are held up", process=process)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert workers
    process.send_signal(number)
    assert any("told to end" in line for line in process.stderr)
    at_the_signal = sorted(each.name for each in begun.iterdir())
    begun.with_name("go on").touch()
    process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode != 0
    _, alive = psutil.wait_procs(workers, timeout=LIMIT_SECONDS)
    assert not alive, alive
    saved = path.read_text().split()
    assert told in saved and len(saved) < 50
    # What had begun was ended and saved, and nothing else began: not even what the pool would have had in reserve.
    assert sorted(saved) == at_the_signal == sorted(each.name for each in begun.iterdir())
