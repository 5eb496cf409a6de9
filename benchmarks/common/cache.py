"""Work that takes hours: each piece is saved in a file once it is done, and not repeated while its code is the same."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Protocol, TypeVar

import torch

ROOT = Path(__file__).parents[2]
DATA = ROOT / "benchmarks" / "data" / "quickstart_trials.csv"
LIBRARIES = ("ax-platform", "botorch", "gpytorch", "optuna", "scikit-learn", "scipy", "torch")


class Saved(Protocol):
    """What a job found."""

    def line(self) -> str:
        """Return it as a line of the file that it is saved in."""
        ...


Job = TypeVar("Job")
Done = TypeVar("Done", bound=Saved)


def fingerprint(patterns: Sequence[str]) -> str:
    """Return a hash of the files that match, of the data and of the libraries.

    Raises:
        FileNotFoundError: A pattern matches nothing, as after a file was renamed: what is saved would seem current.
    """
    matches = {pattern: list(ROOT.glob(pattern)) for pattern in patterns}
    missing = [pattern for pattern, paths in matches.items() if not paths]
    if missing:
        raise FileNotFoundError(f"no file matches {', '.join(missing)}: name what the benchmark uses now")
    files = sorted({path for paths in matches.values() for path in paths})
    parts = [path.read_bytes() for path in (*files, DATA)] + [version(name).encode() for name in LIBRARIES]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def each_done(
    run: Callable[[Job, str], Done], missing: Sequence[Job], mark: Callable[[Job], str], path: Path, workers: int
) -> Iterator[Done]:
    """Run jobs in processes of their own; yield what each found once it stands in the file.

    Told to end, what has begun ends and is saved as well; nothing else begins.

    Args:
        run: Of a job and its fingerprint.
        missing: What is to be run.
        mark: A job's fingerprint, taken now: a worker that looked later would mistake code that changed meanwhile for
            what it runs.
        path: The file, which is added to.
        workers: Processes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, written = Lock(), set[Future[Done]]()

    def save(future: Future[Done]) -> None:
        # Called as each ends, when nobody asks any more too; who asks at that moment may come first.
        if not future.cancelled() and future.exception() is None:
            with lock:
                if future not in written:
                    written.add(future)
                    file.write(future.result().line() + "\n")
                    file.flush()

    with path.open("a") as file, processes(workers) as pool:
        waiting, running = iter([(job, mark(job)) for job in missing]), set[Future[Done]]()
        while True:
            # No more than there are workers: a job that the pool has in reserve would begin when all is told to end.
            for job in islice(waiting, workers - len(running)):
                future = pool.submit(run, *job)
                future.add_done_callback(save)
                running.add(future)
            if not running:
                return
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                done = future.result()
                save(future)
                yield done


@contextmanager
def processes(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Give processes of one thread each, which end with this one whatever ends it."""
    # Worker processes must not inherit torch's threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_quiet)
    # As Ctrl+C: a process that is just gone leaves its workers behind, each with the models that it has loaded.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield pool
    except KeyboardInterrupt:
        print("told to end: what has begun is waited for", file=sys.stderr, flush=True)
        raise
    finally:
        # What has begun ends; nothing else begins.
        pool.shutdown(cancel_futures=True)
        signal.signal(signal.SIGTERM, before)


def _quiet() -> None:
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
