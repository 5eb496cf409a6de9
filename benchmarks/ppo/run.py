"""What both sides of the PPO benchmark share: the size of a run, and what a process measures of itself."""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import torch

from pipeline.runtime.memory import keep_freed_memory

MIB = 2**20


@dataclass(frozen=True)
class Run:
    """One process's run.

    Attributes:
        model: What the folder holds, as claims name it.
        folder: Holds ``policy``, ``reward_model`` and ``prompts.json``.
        batch_size: Responses in a batch.
        response_tokens: Tokens of each response; none ends early.
        epochs: Optimizer steps on each batch: one minibatch a pass.
        warm_up: Steps before the clock runs.
        steps: Steps on the clock.
        seed: Decides prompts and samples.
    """

    model: str
    folder: str
    batch_size: int
    response_tokens: int
    epochs: int
    warm_up: int
    steps: int
    seed: int = 0

    # Low enough that the policy stays where it is: what a step costs does not depend on what it learns.
    learning_rate = 1e-5

    @classmethod
    def given(cls) -> Run:
        """Return the run that stands in the first argument of the command line."""
        return cls(**json.loads(sys.argv[1]))

    def argument(self) -> str:
        """Return what ``given`` reads."""
        return json.dumps(asdict(self))

    def prompts(self) -> torch.Tensor:
        """Return the training prompts, all of one length: ``n x P`` ids."""
        return torch.tensor(json.loads((Path(self.folder) / "prompts.json").read_text())["train"])


@dataclass(frozen=True)
class Spent:
    """What a process measured of itself.

    Attributes:
        seconds: Processor seconds of each step on the clock, garbage collections included.
        collecting: Those that went into the trainer's own calls of ``gc.collect``.
        tokens: Response tokens of a step.
        peak_mib: Most resident memory the process ever had.
        imports_mib: Resident memory after imports, before any model.
    """

    seconds: list[float]
    collecting: list[float]
    tokens: int
    peak_mib: float
    imports_mib: float

    @property
    def tokens_per_second(self) -> float:
        """Response tokens in one processor second, the trainer's own garbage collections left out.

        What a collection costs depends on all that the process ever imported, and nothing on the model: on a tiny
        one it would decide the comparison.
        """
        return self.tokens * len(self.seconds) / (sum(self.seconds) - sum(self.collecting))

    @property
    def tokens_per_second_collecting(self) -> float:
        """The same with its garbage collections."""
        return self.tokens * len(self.seconds) / sum(self.seconds)

    @property
    def beyond_imports_mib(self) -> float:
        """Peak memory less what the imports alone take."""
        return self.peak_mib - self.imports_mib


class Watch:
    """Measures its own process; made once everything is imported."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        keep_freed_memory()
        self._imports_mib = psutil.Process().memory_info().rss / MIB
        self._ticks: list[tuple[float, float]] = []
        self._collecting, self._collect = 0.0, gc.collect
        gc.collect = self._timed_collect

    def tick(self) -> None:
        """Note the processor time: once before the first step, and after each."""
        self._ticks.append((time.process_time(), self._collecting))

    def spent(self, run: Run) -> Spent:
        """Return what the run took so far."""
        steps = [
            (end[0] - start[0], end[1] - start[1]) for start, end in zip(self._ticks, self._ticks[1:], strict=False)
        ]
        if len(steps) != run.warm_up + run.steps:
            sys.exit(f"expected {run.warm_up} + {run.steps} steps, but saw {len(steps)}")
        seconds, collecting = (list(each) for each in zip(*steps[run.warm_up :], strict=True))
        return Spent(seconds, collecting, run.batch_size * run.response_tokens, peak_mib(), self._imports_mib)

    def _timed_collect(self, generation: int = 2) -> int:
        start = time.process_time()
        found = self._collect(generation)
        self._collecting += time.process_time() - start
        return found


def peak_mib() -> float:
    """Return the most memory this process ever had.

    Linux counts it twice: ``ru_maxrss`` begins with what the parent had when it started this process, ``VmHWM`` with
    nothing.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (MIB if sys.platform == "darwin" else 1024)


def hand_back(result: object) -> None:
    """Print a result as the last line, which the parent reads."""
    print(json.dumps(asdict(result) if isinstance(result, Spent) else result), flush=True)
