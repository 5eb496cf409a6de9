"""Studies and explanations to test with: a study as a search leaves it, and token rewards written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.explain.explain import Explanation
from pipeline.explain.samples import TokenRow, TokenSample
from pipeline.export.export import export_shape
from pipeline.runtime.files import write_json
from pipeline.study.folder import StudyFolder
from pipeline.trials.arm import Arm
from pipeline.trials.records import TrialFiles
from pipeline.trials.results import RunResult, TrialResult
from shaping.certificate import Certificate
from shaping.shape import Shape
from tests.support.studies import tiny_config

WINNER = Shape(weights={"prefix": 0.75, "attention": 0.25}, unit="token", gae_lambda=0.7)


def finished_study(root: Path, texts: list[dict[str, Any]], identity: str | None = None) -> StudyFolder:
    """Return a study that has a winner, with what it answered on a fresh seed, and exported its shape."""
    folder, config = StudyFolder(root), tiny_config(name=root.name)
    folder.create(config)
    write_json(folder.winner_file, Arm("3_0", WINNER).to_dict())
    evaluation = {"objective": 0.0, "reward": 0.0, "kl_nats": 0.0, "gold_reward": None, "texts": texts}
    run = RunResult(100, ({"objective": 0.0},), evaluation, Certificate.empty(WINNER))
    files = TrialFiles(folder.confirm_folder("winner", 100))
    files.folder.mkdir(parents=True)
    files.write_result(Arm("winner", WINNER), TrialResult.of([run]))
    export_shape(folder, config, identity and ("judge", identity), folder.export)
    return folder


def kept_text(assets: Path, row: int, response_ids: list[int]) -> dict[str, Any]:
    """Return a response to a held-out prompt as an evaluation keeps it."""
    prompt_ids = json.loads((assets / "prompts.json").read_text())["test"][row]
    return {"prompt": "", "response": "", "prompt_ids": prompt_ids, "response_ids": response_ids, "score": 0.0}


def written(tokens: list[str], rows: dict[str, list[float]], prompt: str = "why", title: str = "t") -> Explanation:
    """Return an explanation of one response whose rewards are these."""
    score = sum(next(iter(rows.values())))
    shapes = {name: Shape(weights={"prefix": 1.0}) for name in rows}
    certificates = {name: Certificate(1e-7, 1, 1.0, {"prefix": True}) for name in rows}
    sample = TokenSample(prompt, tuple(tokens), score, tuple(TokenRow(name, tuple(row)) for name, row in rows.items()))
    return Explanation(title, "judge", shapes, certificates, (sample,))


def exported_shape(shape: Shape, folder: Path, identity: str | None = None) -> Path:
    """Return the file of a shape that was exported away from its study."""
    origin = StudyFolder(folder / "origin")
    origin.create(tiny_config())
    write_json(origin.winner_file, Arm("1_0", shape).to_dict())
    return export_shape(origin, tiny_config(), identity and ("judge", identity), folder / "elsewhere" / "deep")
