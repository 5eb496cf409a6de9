"""How far a launch is: counted as it tells, kept for others to read, and never more hopeful than it may be."""

from __future__ import annotations

import io
import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands.display import StepCount, StudyDisplay
from pipeline.runtime.console import open_console, time_left
from pipeline.study.folder import StudyFolder
from pipeline.study.progress import ProgressFile, RunOut, ended_search_runs, finished_runs, read_progress
from pipeline.trainers.base import TrainingJob
from pipeline.trials.arm import Arm
from pipeline.trials.run import run_trial
from pipeline.trials.types import Ending, Job, Progress
from shaping.shape import Shape
from tests.support.studies import tiny_config

STEPS = 10
# 6 trials of 2 seeds; 6 arms on 2 fresh seeds.
SEARCH_STEPS, CONFIRM_STEPS = 6 * 2 * STEPS, 6 * 2 * STEPS
CONFIG = tiny_config(ppo={"steps": STEPS, "batch_size": 4})


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def job_of(index: int, seed: int, folder: str = "trials") -> Job:
    arm = Arm(f"{index}_0", Shape())
    return Job(index, f"{folder}/{index}", arm.to_dict(), (seed,), CONFIG.model_dump(mode="json"), "")


def make(
    count: Any,
    clock: Clock,
    job: Job,
    steps: int = STEPS,
    seconds: float = 1.0,
    begun: int = 0,
    stage: str = "search",
) -> None:
    """Tell of a run's steps, the first ``begun`` of which an earlier attempt made."""
    count.started(stage, job)
    for step in range(steps):
        again = step < begun
        clock.seconds += 0.0 if again else seconds
        count.progressed(stage, job, Progress(step + 1, job.seeds[0], step, {"objective": 0.0}, again))


def test_the_time_left_is_the_launchs_pace_over_what_is_left() -> None:
    clock = Clock()
    count = StepCount(CONFIG, clock=clock)
    make(count, clock, job_of(0, 0), seconds=3.0)
    # Until a run has ended nobody knows what its end takes.
    assert count.seconds_left("search") is None
    clock.seconds += 20.0
    count.left("search", job_of(0, 0))
    # 50 seconds for 10 steps.
    assert count.seconds_left("search") == pytest.approx(5.0 * (SEARCH_STEPS - STEPS))
    assert count.seconds_left("search", "confirm") == pytest.approx(5.0 * (SEARCH_STEPS - STEPS + CONFIRM_STEPS))


def test_steps_that_are_told_again_took_no_time_and_promise_none() -> None:
    clock = Clock()
    count = StepCount(CONFIG, clock=clock)
    make(count, clock, job_of(0, 0), begun=8)
    count.left("search", job_of(0, 0))
    assert count.done("search") == STEPS and count.seconds_left("search") is None
    make(count, clock, job_of(0, 1), begun=0)
    assert count.seconds_left("search") == pytest.approx(1.0 * (SEARCH_STEPS - 2 * STEPS))


def test_a_trial_that_was_given_up_is_done_with_all_its_seeds() -> None:
    clock = Clock()
    count = StepCount(CONFIG, clock=clock)
    make(count, clock, job_of(0, 0), steps=4)
    assert count.done("search") == 4
    count.given_up(job_of(0, 0))
    assert count.done("search") == 2 * STEPS
    # A run of it that is still out goes on for a while.
    count.progressed("search", job_of(0, 0), Progress(5, 0, 4, {}))
    count.left("search", job_of(0, 0))
    assert count.done("search") == 2 * STEPS


def test_what_is_out_is_told_until_it_comes_back() -> None:
    clock = Clock()
    count = StepCount(CONFIG, clock=clock)
    make(count, clock, job_of(3, 1), steps=4)
    assert count.to_dict()["runs"] == [{"stage": "search", "index": 3, "arm": "3_0", "seed": 1, "done_steps": 4}]
    count.left("search", job_of(3, 1))
    assert count.to_dict()["runs"] == []


def test_the_file_says_what_was_counted_and_is_written_once_a_second(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "progress.json"
    count, file = StepCount(CONFIG, clock=clock), ProgressFile(path, clock)
    make(count, clock, job_of(3, 1), steps=4)
    file.write(count.to_dict)
    found = read_progress(path)
    assert found is not None and found.runs == (RunOut("search", 3, "3_0", 1, 4),)
    assert (found.run_steps, found.done["search"], found.total) == (
        STEPS,
        4,
        {"search": SEARCH_STEPS, "confirm": CONFIRM_STEPS},
    )
    count.left("search", job_of(3, 1))
    file.write(count.to_dict)
    assert read_progress(path) == found
    file.write(count.to_dict, at_once=True)
    assert read_progress(path) != found
    make(count, clock, job_of(4, 1), steps=2)
    file.write(count.to_dict)
    kept = read_progress(path)
    assert kept is not None and [run.index for run in kept.runs] == [4]


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        '{"run_steps": 0, "stages": {}, "runs": [], "seconds_left": null}',
        '{"run_steps": 1, "stages": {}, "runs": [], "seconds_left": NaN}',
        '{"run_steps": 1, "stages": {}, "runs": [{}], "seconds_left": 1}',
    ],
)
def test_a_file_that_cannot_be_read_says_nothing(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    path.write_text(damage)
    assert read_progress(path) is None and read_progress(tmp_path / "none.json") is None


def test_a_disk_that_takes_nothing_ends_no_study_here(tmp_path: Path) -> None:
    ProgressFile(tmp_path / "nowhere" / "progress.json").write(lambda: {}, at_once=True)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, ""),
        (0.0, "less than a minute left"),
        (44.0, "less than a minute left"),
        (50.0, "about 1 min left"),
        (230.0, "about 4 min left"),
        (89 * 60.0, "about 89 min left"),
        (100 * 60.0, "about 2 h left"),
        (30 * 3600.0, "about 30 h left"),
        (72 * 3600.0, "about 3 days left"),
    ],
)
def test_a_time_is_told_as_exactly_as_an_estimate_may_be(seconds: float | None, words: str) -> None:
    assert time_left(seconds) == words


def train(job: TrainingJob) -> Any:
    """A trainer of one's own that ends when it was told to."""
    for step in range(job.first_step, job.steps):
        if step == job.config["trainer"]["options"].get("until"):
            raise RuntimeError("stopped")
        yield step, {"objective": 0.1, "reward": 0.1, "kl_nats": 0.0}


def test_a_trainer_of_ones_own_tells_again_what_it_had_done(tmp_path: Path) -> None:
    def told(options: dict[str, int]) -> list[bool]:
        config = tiny_config(ppo={"steps": STEPS}, trainer={"function": f"{__file__}:train", "options": options})
        job = Job(0, str(tmp_path), Arm("a", Shape()).to_dict(), (0,), config.model_dump(mode="json"), "")
        found = []
        with suppress(RuntimeError):
            for each in run_trial(job):
                if isinstance(each, Progress):
                    found.append(each.again)
        return found

    assert told({"until": 4}) == [False] * 4
    assert told({}) == [True] * 4 + [False] * 6
    assert told({}) == [True] * STEPS


def display_on(**options: Any) -> tuple[StudyDisplay, io.StringIO]:
    written = io.StringIO()
    return StudyDisplay(CONFIG, open_console(file=written, width=80, **options)), written


def test_without_a_terminal_there_is_one_whole_line_a_trial_and_nothing_else() -> None:
    display, written = display_on()
    reason = "stopped after 14 of 20 steps: it was on its way to J -0.125 ± 0.062, far behind the others of its kind"
    with display:
        display.started("search", job_of(0, 0))
        display.progressed("search", job_of(0, 0), Progress(1, 0, 0, {}))
        display.ended("search", job_of(0, 0), Ending(None, reason, stopped=True))
        display.left("search", job_of(0, 0))
    assert written.getvalue() == f"  trial  0  {reason}\n"


def test_bars_fit_80_columns() -> None:
    display, written = display_on(force_terminal=True, color_system=None, legacy_windows=False)
    with display:
        for stage in ("search", "confirm"):
            make(display, Clock(), job_of(0, 0, stage), stage=stage)
            display.left(stage, job_of(0, 0, stage))
            make(display, Clock(), job_of(1, 0, stage), stage=stage)
            display.started(stage, job_of(2, 0, stage))
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.getvalue().replace("\r", "\n"))
    last = [line for line in plain.split("\n") if line][-2:]
    # Stage, bar, share, time and time left in one line each.
    assert [line.split()[0] for line in last] == ["searching", "confirming"]
    assert all(re.search(r"━\S* +\d+ % 0:00:\d\d less than a minute left *$", line) for line in last), last
    assert all(len(line) <= 80 for line in last)


def test_a_launch_that_goes_on_counts_what_will_never_run(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "study")
    folder.create(CONFIG)
    kinds: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
        ("model", {"shape": Shape().to_dict()}, ("seed-0.json", "seed-1.json", "result.json")),
        ("model", {"shape": Shape().to_dict()}, ("seed-0.json", "stopped.json")),
        ("model", {"shape": Shape().to_dict()}, ("failure.json",)),
        ("model", {"shape": Shape().to_dict()}, ("seed-0.json",)),
        # Taken over as data; and an earlier study's arm that was run here.
        ("earlier study", {}, ("seed-0.json", "seed-1.json", "result.json")),
        ("earlier study", {"shape": Shape().to_dict()}, ("seed-0.json",)),
    ]
    for index, (origin, more, names) in enumerate(kinds):
        trial = folder.trial_folder(index)
        trial.mkdir(parents=True)
        (trial / "trial.json").write_text(json.dumps({"index": index, "arm": "a", "origin": origin, **more}))
        for name in names:
            (trial / name).write_text("{}")
    assert ended_search_runs(CONFIG, folder) == 2 + 2 + 2 + 1 + 0 + 1
    assert finished_runs(folder.trials) == 2 + 1 + 0 + 1 + 0 + 1


def test_who_runs_a_study_is_read_without_taking_its_lock(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "study")
    folder.create(CONFIG)
    assert folder.runner() is None
    with folder.locked():
        runner = folder.runner()
        assert runner is not None and str(os.getpid()) in runner
    assert folder.runner() is None
    # A process that was killed leaves its name behind.
    (folder.root / ".lock").write_text(json.dumps({"host": os.uname().nodename, "process": os.getpid(), "began": 1.0}))
    assert folder.runner() is None
