"""The models of film reviews that come with the project, so that nobody waits for their training.

They are those that the default recipe trains, with weights rounded to bfloat16 and measured anew. Of the reviews
themselves nothing is shipped: prompts are made of the downloaded ones.
``python -m pipeline.tasks.sentiment.ship`` makes them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from shaping.errors import ShapetuneError

FOLDER = Path(__file__).with_name("shipped_models")
MANIFEST = FOLDER / "manifest.json"
WEIGHTS = "model.safetensors"
MODELS = ("policy", "reward_model", "gold_model")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def shipped_manifest() -> dict[str, Any]:
    """Return what is recorded of the models: the recipe, facts, the command and each file's size and sha256.

    Raises:
        ShapetuneError: The installation lacks it.
    """
    try:
        found: dict[str, Any] = json.loads(MANIFEST.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ShapetuneError(f"{MANIFEST} cannot be read: {error}", "install shapetune again") from error
    return found


def shipped_digest() -> str:
    """Return what names the shipped models in the cache's keys: a hash of their files."""
    return hashlib.sha256(json.dumps(shipped_manifest()["files"], sort_keys=True).encode()).hexdigest()


def unpack(folder: Path) -> dict[str, Any]:
    """Write the models as the task loads them, in float32, and return their facts.

    Args:
        folder: Gets ``policy``, ``reward_model`` and ``gold_model``.

    Raises:
        ShapetuneError: A file is not the one that was recorded.
    """
    manifest = shipped_manifest()
    for name, (_, sha256) in manifest["files"].items():
        path = FOLDER / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            raise ShapetuneError(f"{path} is not what the project ships", "install shapetune again")
    for model in MODELS:
        target = folder / model
        target.mkdir()
        for name in TOKENIZER:
            shutil.copyfile(FOLDER / name, target / name)
        for path in (FOLDER / model).glob("*.json"):
            shutil.copyfile(path, target / path.name)
        weights = {name: weight.float() for name, weight in load_file(FOLDER / model / WEIGHTS).items()}
        save_file(weights, target / WEIGHTS, metadata={"format": "pt"})
    facts: dict[str, Any] = manifest["facts"]
    return facts
