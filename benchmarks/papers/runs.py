"""One training run of the comparison, and the file that it is saved in: what is done is never done again."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.common.cache import each_done
from benchmarks.common.record import RESULTS, machine
from benchmarks.papers.field import Candidate
from pipeline.config.schema import StudyConfig
from pipeline.trials.results import RunResult, TrialResult
from pipeline.trials.run import run_trial
from pipeline.trials.types import Job
from shaping.errors import TrialFailed

COMPLETED = "completed"
DIGITS = 5


@dataclass(frozen=True)
class Run:
    """A candidate trained with one seed.

    Attributes:
        entrant: Whose.
        gae_lambda: ``lambda``.
        critic: ``value_head``, or ``reward_model``; empty for the study's.
        seed: Its seed.
        job: A hash of all that decides the run.
        commit: Of the code that ran.
        state: ``completed``, or the reason for which it came to nothing.
        objective: J on held-out prompts at the end; not a number where the run came to nothing, as all that follows.
        reward: Unshaped score there.
        kl_nats: KL to the reference there.
        gold_reward: The gold measure there; not a number where the task has none.
        response_tokens: Mean length there.
        wall_seconds: Of the whole run, evaluations too.
        training_cpu_seconds: Of its training alone.
        credit_tokens: Reward-model tokens forwarded for credit, for one response.
        credit_coalitions: Coalitions scored for credit, for one response.
        largest_error: Of the certificate.
        machine: Where it was made; seconds are that machine's.
        curve: J of each training batch.
        held_out: KL, reward and gold on the same held-out prompts as training goes on.
    """

    entrant: str
    gae_lambda: float
    critic: str
    seed: int
    job: str
    commit: str
    state: str
    objective: float = math.nan
    reward: float = math.nan
    kl_nats: float = math.nan
    gold_reward: float = math.nan
    response_tokens: float = math.nan
    wall_seconds: float = math.nan
    training_cpu_seconds: float = math.nan
    credit_tokens: float = math.nan
    credit_coalitions: float = math.nan
    largest_error: float = math.nan
    machine: str = ""
    curve: tuple[float, ...] = ()
    held_out: tuple[tuple[float, float, float], ...] = ()

    def told(self) -> str:
        """Return what came of it, in words."""
        return f"J {self.objective:.3f}" if self.state == COMPLETED else self.state

    def line(self) -> str:
        """Return the run as a line of the file."""
        cells = [getattr(self, entry.name) for entry in fields(self)]
        cells[-2] = " ".join(map(str, self.curve))
        cells[-1] = " ".join("/".join(map(str, point)) for point in self.held_out)
        text = io.StringIO()
        csv.writer(text, lineterminator="").writerow(cells)
        return text.getvalue()

    @classmethod
    def read(cls, row: dict[str, str]) -> Run:
        """Return the run of a line."""
        numbers = {entry.name: float(row[entry.name]) for entry in fields(cls) if entry.type == "float"}
        points = [tuple(map(float, point.split("/"))) for point in row["held_out"].split()]
        words = {name: row[name] for name in ("entrant", "critic", "job", "commit", "state", "machine")}
        values: dict[str, Any] = {**words, **numbers}
        return cls(
            **values,
            seed=int(row["seed"]),
            curve=tuple(map(float, row["curve"].split())),
            held_out=tuple((point[0], point[1], point[2]) for point in points),
        )


@dataclass(frozen=True)
class Planned:
    """A run that is to be made."""

    candidate: Candidate
    seed: int
    config: StudyConfig
    assets: str
    commit: str

    @property
    def job(self) -> str:
        """A hash of all that decides the run, but for the code."""
        config = self.candidate.config(self.config).model_dump(mode="json")
        decides = {name: config[name] for name in ("task", "ppo", "sampling", "evaluation")}
        decided = {**decides, "arm": self.candidate.arm.to_dict(), "assets": Path(self.assets).name, "seed": self.seed}
        return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:12]

    def trained(self) -> RunResult:
        """Return the seed's result.

        Raises:
            TrialFailed: The run came to nothing; the reason is named.
        """
        values = self.candidate.config(self.config).model_dump(mode="json")
        with tempfile.TemporaryDirectory() as folder:
            job = Job(0, folder, self.candidate.arm.to_dict(), (self.seed,), values, self.assets)
            *_, outcome = run_trial(job)
        assert isinstance(outcome, TrialResult)
        (run,) = outcome.runs
        return run


def runs_file(label: str) -> Path:
    """Return where a task's runs are saved."""
    return RESULTS / f"papers-{label}.csv"


def saved_runs(path: Path) -> dict[str, Run]:
    """Return each finished run by its job."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {row["job"]: Run.read(row) for row in csv.DictReader(file)}


def made(planned: Sequence[Planned], path: Path, workers: int) -> Iterable[Run]:
    """Yield each planned run: those of the file at once, the others when they end."""
    saved = saved_runs(path)
    if not saved:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(",".join(entry.name for entry in fields(Run)) + "\n")
    yield from (saved[each.job] for each in planned if each.job in saved)
    missing = [each for each in planned if each.job not in saved]
    if missing:
        yield from each_done(train, missing, lambda each: each.job, path, workers)


def train(planned: Planned, job: str) -> Run:
    """Return a run, made now; one that comes to nothing says why."""
    arm, config = planned.candidate.arm, planned.candidate.config(planned.config)
    known: dict[str, Any] = {
        "entrant": planned.candidate.entrant,
        "gae_lambda": arm.shape.gae_lambda,
        "critic": arm.critic or "",
        "seed": planned.seed,
        "job": job,
        "commit": planned.commit,
        "machine": machine(),
    }
    try:
        run = planned.trained()
    except TrialFailed as failure:
        return Run(**known, state=failure.reason)
    return Run(**known, state=COMPLETED, **_measured(run, config))


def _measured(run: RunResult, config: StudyConfig) -> dict[str, Any]:
    ended, responses = run.evaluation, config.ppo.steps * config.ppo.batch_size
    names = ("objective", "reward", "kl_nats", "response_tokens")
    return {
        **{name: round(ended[name], DIGITS) for name in names},
        "gold_reward": _gold(ended),
        "wall_seconds": round(run.wall_seconds or 0.0, 2),
        "training_cpu_seconds": round(run.training_cpu_seconds or 0.0, 2),
        "credit_tokens": round((run.credit_tokens or 0) / responses, 1),
        "credit_coalitions": round((run.credit_coalitions or 0) / responses, 1),
        "largest_error": run.certificate.largest_error,
        "curve": tuple(round(point["objective"], DIGITS) for point in run.curve),
        "held_out": tuple(
            (round(point["kl_nats"], DIGITS), round(point["reward"], DIGITS), _gold(point)) for point in run.held_out
        ),
    }


def _gold(measured: Mapping[str, Any]) -> float:
    found = measured.get("gold_reward")
    return math.nan if found is None else round(float(found), DIGITS)
