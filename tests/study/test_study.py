"""A whole study in this process: what it leaves, that it repeats itself, and that it goes on after a kill."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.schema import StudyConfig
from pipeline.executors.local import LocalExecutor
from pipeline.study.confirm_stage import confirmation_runs
from pipeline.study.folder import StudyFolder
from pipeline.study.prepared import PreparedStudy
from pipeline.study.study import StudySource
from pipeline.trials.results import TrialResult
from pipeline.trials.task_models import ReadyModels
from pipeline.trials.types import Ending, Job, Progress
from tests.support.studies import tiny_config

# Whole studies, trained.
pytestmark = pytest.mark.slow
# The study that is killed.
KILLED = tiny_config(search={"trials": 4, "sobol_trials": 1, "seeds": [0, 1]})


class Events:
    """A listener that writes down what it hears."""

    def __init__(self) -> None:
        self.ended_jobs: list[tuple[str, str, bool]] = []
        self.endings: list[Ending] = []
        self.steps = self.left_jobs = 0

    def started(self, stage: str, job: Job) -> None:
        pass

    def progressed(self, stage: str, job: Job, progress: Progress) -> None:
        self.steps += 1

    def left(self, stage: str, job: Job) -> None:
        self.left_jobs += 1

    def ended(self, stage: str, job: Job, ending: Ending) -> None:
        self.endings.append(ending)
        self.ended_jobs.append((stage, job.arm["name"], ending.outcome is not None))


def study(config: StudyConfig, root: Path, assets: Path) -> tuple[StudySource, Events]:
    folder = StudyFolder(root)
    folder.create(config)
    events = Events()
    return StudySource(PreparedStudy(config, folder, ReadyModels(assets, has_reward_critic=True)), events), events


def comparable(root: Path) -> dict[str, Any]:
    """Every result of a study without its times."""
    results = {}
    for path in sorted(root.glob("*/*/result.json")):
        result = json.loads(path.read_text())
        result["metrics"].pop("training_cpu_seconds")
        for run in result["runs"]:
            run.pop("training_cpu_seconds")
            run.pop("wall_seconds")
            run.pop("machine")
        results[str(path.relative_to(root))] = result
    return results


@dataclass(frozen=True)
class Ran:
    """A study that has ended, with what its listener heard."""

    source: StudySource
    events: Events


@pytest.fixture(scope="module")
def ran(tiny_assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    source, events = study(tiny_config(), tmp_path_factory.mktemp("ended") / "a", tiny_assets)
    LocalExecutor().run(source)
    return Ran(source, events)


@pytest.fixture(scope="module")
def whole(tiny_assets: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the study comes to that others are killed in, where nobody kills it."""
    root = tmp_path_factory.mktemp("whole")
    source, _ = study(KILLED, root, tiny_assets)
    LocalExecutor().run(source)
    return comparable(root)


def test_a_study_searches_confirms_and_repeats_itself_exactly(ran: Ran, tiny_assets: Path, tmp_path: Path) -> None:
    repeated = Ran(*study(tiny_config(), tmp_path / "b", tiny_assets))
    LocalExecutor().run(repeated.source)
    for each in (ran, repeated):
        assert each.source.finished()
        assert [stage for stage, _, _ in each.events.ended_jobs] == ["search"] * 6 + ["confirm"] * 12
        assert all(succeeded for _, _, succeeded in each.events.ended_jobs)
        assert each.events.steps == (6 * 2 + 12) * tiny_config().ppo.steps
        verdict = each.source.verdict()
        assert verdict is not None and {d.seeds for d in verdict.differences} == {2}
    first, second = comparable(ran.source.folder.root), comparable(tmp_path / "b")
    assert len(first) == 18
    assert first == second


def test_arms_share_prompts_and_random_numbers_within_a_seed(ran: Ran) -> None:
    runs = confirmation_runs(ran.source.folder)
    # Before its first update every policy is the same, so the first step must show the same reward.
    for place in range(2):
        first_rewards = {results[place].curve[0]["reward"] for results in runs.values()}
        assert len(first_rewards) == 1
    assert runs["sparse"][0].curve[0]["reward"] != runs["sparse"][1].curve[0]["reward"]
    ends = {round(results[0].objective, 9) for results in runs.values()}
    assert len(ends) > 1


def test_the_policy_before_training_is_judged_once_a_fresh_seed(ran: Ran) -> None:
    runs = confirmation_runs(ran.source.folder)
    judged = [run for results in runs.values() for run in results if run.untrained]
    assert judged == runs["sparse"]
    first, second = (run.untrained for run in judged)
    level = (first["objective"] + second["objective"]) / 2
    assert first["reward"] != second["reward"] and first["kl_nats"] == pytest.approx(0, abs=1e-5)
    searched = [json.loads(file.read_text()) for file in ran.source.folder.trials.glob("*/seed-*.json")]
    assert searched and not any(run["untrained"] for run in searched)
    verdict = ran.source.verdict()
    assert verdict is not None and verdict.text[-1].startswith(f"Before training J is {level:z.3f}")


class _Killed(BaseException):
    """Stands for a process that dies: nothing may catch it."""


class _DyingSource:
    """A study that dies at a chosen event."""

    def __init__(self, inner: StudySource, tells: int) -> None:
        self._inner, self._tells = inner, tells

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def tell(self, job: Job, outcome: TrialResult) -> None:
        if self._tells == 0:
            raise _Killed
        self._tells -= 1
        self._inner.tell(job, outcome)


@pytest.mark.parametrize("tells", [0, 3, 7, 12], ids=["first seed", "search", "last of search", "confirmation"])
def test_a_killed_study_goes_on_and_ends_with_the_same_results(
    tells: int, whole: dict[str, Any], tiny_assets: Path, tmp_path: Path
) -> None:
    killed, _ = study(KILLED, tmp_path / "killed", tiny_assets)
    with pytest.raises(_Killed):
        LocalExecutor().run(_DyingSource(killed, tells))
    resumed, events = study(KILLED, tmp_path / "killed", tiny_assets)
    LocalExecutor().run(resumed)
    assert comparable(tmp_path / "killed") == whole
    # Two seeds a trial in the search: 8 jobs, then 12 of the confirmation.
    assert events.left_jobs <= 20 - tells
    # A study that has ended has nothing more to do.
    again, events = study(KILLED, tmp_path / "killed", tiny_assets)
    assert again.finished() and again.ask() is None and events.ended_jobs == []


def test_a_diverging_trial_is_recorded_with_its_reason_and_the_study_goes_on(tiny_assets: Path, tmp_path: Path) -> None:
    config = tiny_config(ppo={"steps": 3, "batch_size": 4, "learning_rate": 0.5, "kl_limit_nats": 1e-6})
    ran, events = study(config, tmp_path / "s", tiny_assets)
    LocalExecutor().run(ran)
    assert ran.finished() and not any(succeeded for _, _, succeeded in events.ended_jobs)
    assert len(events.ended_jobs) == 6
    failures = [json.loads(path.read_text()) for path in (tmp_path / "s").glob("trials/*/failure.json")]
    assert {failure["reason"] for failure in failures} == {"kl_limit"}
    assert all("kl_limit_nats" in failure["detail"] for failure in failures)
    assert ran.verdict() is None and ran.ranking() == []
