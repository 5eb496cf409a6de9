"""The files of a study's trials, in every state that a trial has."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from rich.console import Console, Group

from pipeline.commands.status import trial_lines
from pipeline.commands.summary import show_places, show_verdict
from pipeline.study.folder import StudyFolder
from pipeline.study.status import read_status
from pipeline.study.verdict import Verdict
from pipeline.trials.arm import Arm
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
            whole = {"arm": Arm(f"{index}_0", SHAPE).to_dict(), **values} if name == "failure" else values
            (path / f"{name}.json").write_text(json.dumps(whole))

    def all_kinds(self) -> None:
        arm = Arm("0_0", SHAPE).to_dict()
        result = {"metrics": {"objective": [0.5, 0.25], "kl_nats": [3.0, None]}, "arm": arm}
        self.write(0, "baseline", result=result)
        self.write(1, "earlier study", shape=False, result=result)
        self.write(2, "model", stopped=EARLY)
        self.write(3, "sobol", failure={"reason": "nan", "detail": "loss [/red] is nan", "arm": arm})
        self.write(4, "model")

    def shown(self) -> str:
        said = io.StringIO()
        console = Console(width=160, highlight=False, file=said)
        console.print(Group(*trial_lines(read_status(self.folder), console.width, running=True)))
        return said.getvalue()

    def summed_up(self, verdict: Verdict | None = None) -> str:
        self.folder.winner_file.write_text(json.dumps({**Arm("0_0", SHAPE).to_dict(), "trials": 12}))
        said = io.StringIO()
        console = Console(width=160, highlight=False, file=said)
        show_verdict(self.config, self.folder, verdict, console)
        show_places(self.config, self.folder, console, 1.0)
        return said.getvalue()
