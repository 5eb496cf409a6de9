"""An export as a user has it before him: a shape file, its reward model, and the modules for a trainer."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from pipeline.export.reward_model_code import causal_code
from pipeline.export.template import Exported
from shaping import CausalRewardModel, Shape
from shaping.shape_file import ShapeFile
from tests.adapters.conversations import SHAPE
from tests.support.models.tiny_models import SCORE_DEVIATION, SCORE_MEAN, tiny_classifier

KL_COEF = 0.07
# A name that a careless module would trip over.
REWARD_MODEL = 'the "reward" model\'s 🎬'


def shape_file(source: str | Path, shape: Shape = SHAPE, study: str = "films") -> ShapeFile:
    reward_model = CausalRewardModel.from_pretrained(source)
    return ShapeFile(
        shape,
        KL_COEF,
        kl_estimator="k3",
        missing_eos_penalty=1.0,
        reward_model=reward_model.name,
        reward_model_sha256=reward_model.identity(),
        study={"name": study, "arm": "sobol 3"},
    )


def export_into(folder: Path, snippet: Callable[[Exported], dict[str, str]], study: str = "films") -> None:
    """Write a reward model, a shape tuned for it, and what a trainer's snippet gives."""
    model = tiny_classifier()
    model.config.score_mean, model.config.score_deviation = SCORE_MEAN, SCORE_DEVIATION
    model.save_pretrained(folder / REWARD_MODEL)
    content = shape_file(folder / REWARD_MODEL, study=study)
    content.write(folder / "shape.json")
    for name, text in snippet(Exported(content, causal_code(str(folder / REWARD_MODEL)))).items():
        (folder / name).write_text(text)


def loaded(path: Path) -> ModuleType:
    """Return a generated module, imported under its own name."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
