"""What the command line says of a study's trials, and at its end, from the files of its folder alone."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, Group

from pipeline.commands.status import trial_lines
from pipeline.commands.summary import show_summary
from pipeline.study.confirm_stage import confirmation_runs
from pipeline.study.folder import StudyFolder
from pipeline.study.status import read_status
from pipeline.study.verdict import Verdict, judge
from pipeline.trials.arm import Arm
from shaping.certificate import Certificate
from shaping.shape import Shape
from tests.support.studies import tiny_config

SHAPE = Shape(weights={"prefix": 0.75, "sparse": 0.25}, gae_lambda=0.8)
EARLY = {"steps": 14, "objective": -0.125, "deviation": 0.0625, "curve": [0.0] * 14}


class Trials:
    """Writes the files of trials of 10 steps and 2 seeds."""

    def __init__(self, root: Path) -> None:
        self.folder = StudyFolder(root)
        self.config = tiny_config(ppo={"steps": 10, "batch_size": 4})
        self.folder.create(self.config)

    def write(self, index: int, origin: str, shape: bool = True, **files: Any) -> None:
        path = self.folder.trial_folder(index)
        path.mkdir(parents=True)
        made = {"index": index, "arm": f"{index}_0", "origin": origin}
        (path / "trial.json").write_text(json.dumps({**made, "shape": SHAPE.to_dict()} if shape else made))
        for name, values in files.items():
            (path / f"{name}.json").write_text(json.dumps(values))

    def all_kinds(self) -> None:
        result = {"metrics": {"objective": [0.5, 0.25], "kl_nats": [3.0, None]}, "arm": Arm("0_0", SHAPE).to_dict()}
        self.write(0, "baseline", result=result)
        self.write(1, "earlier study", shape=False, result=result)
        self.write(2, "model", stopped=EARLY)
        self.write(3, "sobol", failure={"reason": "nan", "detail": "loss [/red] is nan"})
        self.write(4, "model")

    def shown(self) -> str:
        said = io.StringIO()
        console = Console(width=160, highlight=False, file=said)
        console.print(Group(*trial_lines(read_status(self.folder), console.width, running=True)))
        return said.getvalue()

    def summed_up(self, verdict: Verdict | None = None) -> str:
        self.folder.winner_file.write_text(json.dumps({**Arm("0_0", SHAPE).to_dict(), "trials": 12}))
        said = io.StringIO()
        show_summary(self.config, self.folder, verdict, Console(width=160, highlight=False, file=said), 1.0)
        return said.getvalue()


@pytest.fixture
def trials(tmp_path: Path) -> Trials:
    return Trials(tmp_path / "study")


def test_every_state_stands_in_the_rows_and_they_are_plain_json(trials: Trials) -> None:
    trials.all_kinds()
    rows = read_status(trials.folder)
    assert json.loads(json.dumps(rows)) == rows
    assert [row["state"] for row in rows] == ["completed", "completed", "stopped", "failed", "running"]
    assert [row["origin"] for row in rows] == ["baseline", "earlier study", "model", "sobol", "model"]
    assert [row["J"] for row in rows] == [0.5, 0.5, None, None, None]
    assert len({frozenset(row) for row in rows}) == 1
    assert all(row["shape"] == SHAPE.to_dict() for row in rows)


def test_a_stopped_trial_shows_what_it_was_on_its_way_to_and_never_as_measured(trials: Trials) -> None:
    trials.all_kinds()
    stopped = read_status(trials.folder)[2]
    assert (stopped["projected_J"], stopped["projected_J_deviation"]) == (-0.125, 0.0625)
    # 10 steps of each of 2 seeds.
    assert (stopped["steps"], stopped["total_steps"]) == (14, 20)
    assert stopped["J"] is None and stopped["J_standard_error"] is None
    assert stopped["reason"] == "stopped after 14 of 20 steps, on its way to J -0.125 ± 0.062"
    assert stopped["reason"] in trials.shown()


def test_a_seed_that_fails_after_its_trial_was_stopped_changes_nothing(trials: Trials) -> None:
    trials.write(0, "model", stopped=EARLY, failure={"reason": "kl_limit", "detail": "KL ran away"})
    assert read_status(trials.folder)[0]["state"] == "stopped"


def test_a_projection_is_never_the_best_observed(trials: Trials) -> None:
    trials.all_kinds()
    trials.write(5, "model", stopped={**EARLY, "objective": 9.0})
    assert "best observed J so far: +0.500, trial 0" in trials.shown()


def test_the_table_shows_shapes_and_reasons_as_they_were_written(trials: Trials) -> None:
    trials.all_kinds()
    shown = trials.shown()
    assert shown.count("0.75 prefix + 0.25 sparse, lambda 0.80") == 5
    assert "earlier study" in shown
    assert "nan: loss [/red] is nan" in shown


def test_a_study_without_trials_says_so(trials: Trials) -> None:
    assert "no trial has started yet" in trials.shown()


def test_the_end_of_a_launch_counts_what_was_stopped(trials: Trials) -> None:
    trials.all_kinds()
    assert "1 of 5 trials was stopped early." in trials.summed_up()
    trials.write(5, "model", stopped=EARLY)
    assert "2 of 6 trials were stopped early." in trials.summed_up()


def test_without_early_stopping_the_end_of_a_launch_does_not_speak_of_it(trials: Trials) -> None:
    trials.write(0, "model")
    assert "stopped" not in trials.summed_up()


def confirm(trials: Trials, certificate: dict[str, Any]) -> None:
    for name, level in (("winner", 0.5), ("sparse", 0.25), ("place 2, 4_0", 0.75)):
        for seed in (100, 101):
            evaluation = {"objective": level + seed % 2, "reward": level, "kl_nats": 2.0, "gold_reward": None}
            curve = [{"objective": level * step} for step in range(10)]
            run = {"seed": seed, "evaluation": evaluation, "curve": curve, "certificate": certificate}
            if name == "sparse":
                run["untrained"] = {**evaluation, "objective": 0.125, "kl_nats": -1e-9}
            path = trials.folder.confirm_folder(name, seed)
            path.mkdir(parents=True)
            (path / "result.json").write_text(json.dumps({"runs": [run], "arm": Arm(name, SHAPE).to_dict()}))


@pytest.mark.parametrize(
    ("error", "responses", "said"),
    [(1e-7, 8, "kept in every run"), (0.5, 8, "SUMS BROKEN: winner; "), (0.0, 0, "nothing checked")],
)
def test_the_summary_says_of_sums_what_was_seen(trials: Trials, error: float, responses: int, said: str) -> None:
    confirm(trials, Certificate(error, responses, 1.0, {"prefix": True}).to_dict())
    (line,) = [
        line
        for line in trials.summed_up(judge("0_0", confirmation_runs(trials.folder))).splitlines()
        if line.startswith("sums ")
    ]
    assert said in line


def test_the_table_of_confirmed_arms_takes_runners_up(trials: Trials) -> None:
    confirm(trials, Certificate(1e-7, 8, 1.0, {"prefix": True}).to_dict())
    verdict = judge("0_0", confirmation_runs(trials.folder))
    lines = trials.summed_up(verdict).splitlines()
    rows = [line for line in lines if line.startswith(("winner  ", "place 2, 4_0  ", "sparse  "))]
    # The winner first, then by J; nothing is claimed of the runner-up.
    assert [row.split("  ")[0] for row in rows] == ["winner", "place 2, 4_0", "sparse"]
    before = lines[lines.index(rows[-1]) + 1]
    assert before.split() == ["before", "training", "0.125", "±", "0.000", "0.250", "±", "0.000", "0.0", "±", "0.0"]
    assert "1.250 ± 0.500" in rows[1] and not any("gold" in line for line in lines)
    assert not any("against place 2" in line for line in lines)
    assert [difference.rival for difference in verdict.differences] == ["sparse"]
