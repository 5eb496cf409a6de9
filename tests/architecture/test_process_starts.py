"""What a process imports before it does anything: seconds of every start, and of every worker of a study."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import shaping
from pipeline.study.folder import StudyFolder
from pipeline.trials.arm import Arm
from pipeline.trials.types import Job
from tests.support import slow_trainer
from tests.support.list_source import ListSource
from tests.support.studies import tiny_config
from tests.support.waiting import LIMIT_SECONDS

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "ax", "botorch", "scipy", "plotly", "datasets", "ray", "pandas", "sqlalchemy")
TELL = f"import sys; print('heavy:', *[name for name in {HEAVY} if name in sys.modules])"


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, **environment}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=given, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
    )


def heavy_after(code: str, *arguments: str) -> list[str]:
    """Return the heavy modules that a new interpreter holds after some code."""
    done = python("-c", f"{code}\n{TELL}", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


def own_job(folder: Path, **changes: object) -> Job:
    options = {"seconds": 0.0, "log": str(folder / "steps.log")}
    trainer = {"function": f"{slow_trainer.__file__}:train", "options": options}
    config = tiny_config(trainer=trainer, space={"methods": ["prefix", "attention"]}, **changes)
    shape = config.base_shape().with_changes(weights={"attention": 0.5, "sparse": 0.5})
    return Job(0, str(folder / "trial"), Arm("a", shape).to_dict(), (0, 1), config.model_dump(mode="json"), "")


def test_the_probe_sees_what_is_imported() -> None:
    assert heavy_after("import sqlalchemy, scipy") == ["scipy", "sqlalchemy"]


@pytest.mark.parametrize(
    "modules",
    [
        "pipeline.cli",
        "pipeline.submitted",
        "pipeline.serve.server",
        "shaping.errors, shaping.printable, shaping.shape, shaping.shape_file, shaping.certificate",
    ],
)
def test_what_every_command_imports_is_light(modules: str) -> None:
    assert heavy_after(f"import {modules}") == []


@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_help_and_status_of_a_study_import_nothing_heavy(form: list[str], tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    folder.create(tiny_config())
    made = {"index": 0, "arm": "0_0", "origin": "sobol", "shape": shaping.Shape(weights={"shapley": 1.0}).to_dict()}
    folder.trial_folder(0).mkdir(parents=True)
    (folder.trial_folder(0) / "trial.json").write_text(json.dumps(made))
    run = "import sys; from pipeline.cli import _run; assert _run(sys.argv[1:]) == 0"
    assert heavy_after(run, "--help") == []
    assert heavy_after(run, "status", str(tmp_path), *form) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["launch", "no-such-config"],
        ["launch", "quickstart", "--set", "ppo.steps=-1"],
        ["launch", "quickstart", "--set", "space.trainer.ppo.critic=[value_head,oracle]"],
        ["launch", "quickstart", "--studies", "{file}"],
        ["train", "quickstart", "--set", "ppo.steps=-1"],
        ["submit", "quickstart", "--set", "ppo.steps=-1", "--address", "http://127.0.0.1:1", "--studies", "/studies"],
        ["status", "nowhere"],
        ["export", "nowhere"],
        ["report", "nowhere"],
        ["explain", "nowhere"],
        ["explain", "quickstart", "--method", "lucky"],
        ["serve", "nowhere"],
        ["--version"],
        ["doctor"],
    ],
)
def test_what_is_refused_is_refused_before_anything_heavy_is_imported(arguments: list[str], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("no folder")
    given = [each.format(file=file) for each in arguments]
    run = f"import sys; from pipeline.cli import _run; code = _run({given!r}); assert code in (0, 2), code"
    assert heavy_after(run) == []


@pytest.mark.parametrize("name", ["balance", "credit_mix", "full"])
def test_reading_a_config_imports_nothing_heavy(name: str) -> None:
    methods = "[shapley]" if name == "balance" else "[shapley, attention]"
    changes = (f"space.name={name}", f"space.methods={methods}", "shape.max_units=12")
    read = "from pipeline.config.load import find_config, load_config"
    assert heavy_after(f"{read}; load_config(find_config('quickstart'), {changes})") == []


def test_a_trial_of_ones_own_trainer_imports_nothing_heavy(tmp_path: Path) -> None:
    job = own_job(tmp_path, executor={"name": "ray"})
    code = f"""
from pipeline.trials.failures import failure_of
from pipeline.trials.run import run_trial
from pipeline.trials.results import TrialResult
from pipeline.trials.types import (Job)
*steps, outcome = run_trial({job!r})
assert len(steps) == {job.total_steps} and isinstance(outcome, TrialResult) and outcome.certificate.causal
assert failure_of(MemoryError()).reason == "out_of_memory"
"""
    assert heavy_after(code) == []
    machine = json.loads((tmp_path / "trial" / "seed-1.json").read_text())["machine"]
    assert machine["precision"] == "own trainer" and not {"torch", "threads"} & set(machine)


def test_a_worker_imports_what_tune_needs_and_no_more() -> None:
    assert heavy_after("import pipeline.executors.ray_tune") == ["ray", "pandas"]


@pytest.mark.slow
def test_workers_of_ones_own_trainer_stay_for_the_next_trial_and_never_import_torch(tmp_path: Path) -> None:
    from pipeline.executors.ray_tune import RayTuneExecutor

    job = own_job(tmp_path)
    source = ListSource([replace(job, index=index, folder=str(tmp_path / str(index))) for index in range(6)])
    RayTuneExecutor(slots=2).run(source)
    machines = [run.machine for outcome in source.outcomes.values() for run in outcome.runs]
    assert len(machines) == 12 and not any("torch" in machine for machine in machines)
    assert len({machine["process"] for machine in machines}) <= 2


def test_every_public_name_is_its_modules_own() -> None:
    tree = ast.parse(Path(shaping.__file__).read_text())
    typed = next(node for node in tree.body if isinstance(node, ast.If))
    homes = {name.name: node.module for node in typed.body if isinstance(node, ast.ImportFrom) for name in node.names}
    assert sorted(homes) == sorted(shaping.__all__) and set(shaping.__all__) <= set(dir(shaping))
    for name, home in homes.items():
        assert getattr(shaping, name) is getattr(sys.modules[home], name)
    with pytest.raises(AttributeError, match=r"module 'shaping' has no attribute 'Nonsense'"):
        shaping.Nonsense  # noqa: B018
    with pytest.raises(ImportError, match="Nonsense"):
        exec("from shaping import Nonsense")


def test_ctrl_c_while_the_command_line_is_imported_leaves_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = python("-m", "pipeline", "--help", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: stopped by SIGINT\n")


def test_the_module_is_the_command() -> None:
    done = python("-m", "pipeline", "lunch")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "lunch" in done.stderr
