"""Learning from each method's credit where the truth is known: the quickstart's policy, length and PPO."""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common.record import RESULTS
from benchmarks.fidelity.field import Contender
from benchmarks.fidelity.worlds import RECIPE, load_world
from benchmarks.papers.field import Candidate
from benchmarks.papers.runs import Planned, Run, made
from pipeline.config.schema import StudyConfig
from pipeline.runtime.memory import keep_freed_memory
from pipeline.trainers.ppo.run import InnerRun
from pipeline.trainers.ppo.trainer import PPOTrainer
from pipeline.trials.arm import Arm
from pipeline.trials.results import RunResult
from pipeline.trials.run import ppo_result

LAMBDAS = (0.8, 0.95)
# Those of the quickstart's search and confirmation, and of the papers' comparison, are other ones.
FIRST_SEED = 300


@dataclass(frozen=True)
class Lesson(Planned):
    """A run in a world, which no config describes."""

    world: str

    @property
    def job(self) -> str:
        """A hash of all that decides the run, but for the code."""
        return hashlib.sha256(repr((super().job, self.world, RECIPE)).encode()).hexdigest()[:12]

    def trained(self) -> RunResult:
        """Return the result of training in the world."""
        keep_freed_memory()
        task, started = load_world(self.world, self.assets, self.config.sampling.response_tokens), time.perf_counter()
        trainer = PPOTrainer(task, self.candidate.arm.shape, self.config.ppo, self.config.sampling, self.seed)
        with tempfile.TemporaryDirectory() as folder:
            run = InnerRun(trainer, self.config.evaluation, Path(folder) / "checkpoint.safetensors", self.job)
            for _ in run.steps():
                pass
        return ppo_result(trainer, run, self.seed, started)


def lessons(
    world: str, field: Sequence[Contender], seeds: Iterable[int], config: StudyConfig, assets: str, commit: str
) -> list[Lesson]:
    """Return every contender's runs in a world, over lambda and seeds."""
    chosen = list(seeds)
    return [
        Lesson(_candidate(contender, gae_lambda), seed, config, assets, commit, world)
        for contender in field
        for gae_lambda in LAMBDAS
        for seed in chosen
    ]


def _candidate(contender: Contender, gae_lambda: float) -> Candidate:
    arm = Arm(contender.method, contender.shape.with_changes(gae_lambda=gae_lambda))
    return Candidate(contender.method, arm)


def lessons_file(world: str, folder: Path = RESULTS) -> Path:
    """Return where a world's runs are saved."""
    return folder / f"fidelity-{world}.csv"


Learned = Mapping[tuple[str, float], list[Run]]


def learn(planned: Sequence[Lesson], path: Path, workers: int) -> Learned:
    """Return the runs of each method and lambda: those of the file, and those that are made now."""
    found: dict[tuple[str, float], list[Run]] = {}
    for count, run in enumerate(made(planned, path, workers), 1):
        found.setdefault((run.entrant, run.gae_lambda), []).append(run)
        print(f"{path.stem}: {count} of {len(planned)}: {run.entrant}: {run.told()}", file=sys.stderr, flush=True)
    return {place: sorted(runs, key=lambda run: run.seed) for place, runs in found.items()}
