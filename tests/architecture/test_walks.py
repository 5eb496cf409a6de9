"""How far a study's data walks: from its config to the first trial, and from its folder to what is exported."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What every room stands on.
GROUND = "runtime"
LAUNCH, EXPORT = 9, 5
WALK = """
import io, os, sys
from pathlib import Path
from rich.console import Console
import pipeline.executors.local
from pipeline.commands.launch import launch_study
from pipeline.config.load import find_config, load_config
from pipeline.study.examined import examined

FUNCTION = 1  # a code object's flag, which the bodies of modules and classes have not
rooms = {}

class Arrived(BaseException):
    pass

def entered(frame, event, argument):
    module = frame.f_globals.get("__name__", "")
    if event == "call" and module.startswith("pipeline.") and frame.f_code.co_flags & FUNCTION:
        rooms.setdefault(module.split(".")[1])
        if module == "pipeline.trials.run" and frame.f_code.co_name == "run_trial":
            raise Arrived

folder, *walks = sys.argv[1:]
# Each walks in a process of its own, after one import of everything.
for change in walks:
    if walker := os.fork():
        assert os.waitpid(walker, 0)[1] == 0
        continue
    sys.setprofile(entered)
    try:
        config = load_config(find_config("smoke"), ("executor.name=local", *change.split()))
        launch_study(examined(config, Path(folder, change)), Console(file=io.StringIO()))
    except Arrived:
        sys.setprofile(None)
        print("rooms:", *rooms, flush=True)
        os._exit(0)
    os._exit(1)
"""


def rooms_imported(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    return {module.split(".")[1] for module in modules if module.startswith("pipeline.")} - {GROUND}


@pytest.mark.slow
def test_a_study_enters_few_rooms_from_its_config_to_its_first_trial(tmp_path: Path) -> None:
    walks = ["name=plain", "trainer.function=tests.fixtures.study_8987f0a.trainer:train space.trainer.ppo.critic=null"]
    command = [sys.executable, "-c", WALK, str(tmp_path), *walks]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("rooms:")]
    assert len(lines) == len(walks)
    for line in lines:
        rooms = [room for room in line.split()[1:] if room != GROUND]
        assert rooms[0] == "config" and {"commands", "study", "search", "executors", "trials"} < set(rooms)
        assert len(rooms) <= LAUNCH, rooms


def test_a_launch_and_an_export_know_few_rooms() -> None:
    assert len(rooms_imported("pipeline/commands/launch.py")) <= LAUNCH
    assert len(rooms_imported("pipeline/study/prepared.py")) <= LAUNCH
    assert len(rooms_imported("pipeline/export/export.py")) <= EXPORT
