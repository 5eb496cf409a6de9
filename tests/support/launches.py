"""Studies of the slow trainer, launched as a command, and what they came to."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from tests.support import slow_trainer
from tests.support.servers.commands import Command

TRIALS, SEEDS, STEPS = 7, 2, 4


def write_config(folder: Path, executor: str, seconds: float) -> Path:
    values = {
        "name": "s",
        "trainer": {"function": f"{slow_trainer.__file__}:train"},
        "space": {"methods": ["prefix", "attention"]},
        "ppo": {"steps": STEPS},
        "search": {"trials": TRIALS, "sobol_trials": 2, "seeds": list(range(SEEDS))},
        "confirm": {"seeds": [100]},
        "executor": {"name": executor, "slots": 2},
    }
    values["trainer"]["options"] = {"seconds": seconds, "log": str(folder / "steps.log")}
    folder.mkdir(exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def launch(config: Path) -> Command:
    return Command("launch", str(config), "--studies", str(config.parent / "studies"))


def launched(config: Path) -> str:
    """Launch a study to its end; return what it said of what went wrong."""
    process = launch(config)
    assert process.wait() == 0, process.errors()
    return process.errors()


def found(config: Path) -> dict[str, object]:
    """What a study came to: every run's curve, the winner and the verdict's numbers."""
    study = config.parent / "studies" / "s"
    runs = {
        str(path.relative_to(study)): json.loads(path.read_text())["curve"] for path in study.glob("*/*/seed-*.json")
    }
    shapes = {path.parent.name: json.loads(path.read_text())["shape"] for path in study.glob("trials/*/trial.json")}
    verdict = json.loads((study / "verdict.json").read_text())
    winner = json.loads((study / "winner.json").read_text())
    return {"runs": runs, "shapes": shapes, "winner": winner, "differences": verdict["differences"]}
