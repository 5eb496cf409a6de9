"""Makes the models that come with the project: ``python -m pipeline.tasks.sentiment.ship``, minutes on two cores.

Trains those of the default recipe, rounds their weights to bfloat16, and measures what is left of their quality.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, LlamaForSequenceClassification

from pipeline.runtime.environment import installed_versions
from pipeline.tasks.asset_cache import cache_folder, recorded_files
from pipeline.tasks.models.calibration import score_scale
from pipeline.tasks.models.language_model import loss_nats
from pipeline.tasks.models.pretrained import SAFE
from pipeline.tasks.models.reward_model import reward_quality
from pipeline.tasks.sentiment.shipped import FOLDER, MANIFEST, MODELS, TOKENIZER, WEIGHTS
from pipeline.tasks.sentiment.task import build_sentiment, held_out_rows, untrained_samples
from pipeline.tasks.settings import Recipe
from pipeline.trainers.base import quiet_transformers
from shaping.reward_models import CausalRewardModel

COMMAND = "python -m pipeline.tasks.sentiment.ship"


def main() -> None:
    """Write ``shipped_models`` anew and print what was measured."""
    quiet_transformers()
    recipe = Recipe()
    source = build_sentiment(recipe, cache_folder())
    shutil.rmtree(FOLDER, ignore_errors=True)
    for name in MODELS:
        (FOLDER / name).mkdir(parents=True)
        _round(source / name, FOLDER / name)
    for name in TOKENIZER:
        shutil.copyfile(source / "policy" / name, FOLDER / name)
    facts = _measured(recipe, json.loads((source / "prompts.json").read_text(encoding="utf-8"))["train"])
    files = recorded_files(FOLDER)
    made = {"command": COMMAND, "recipe": recipe.model_dump(), "versions": installed_versions(), "facts": facts}
    MANIFEST.write_text(json.dumps({**made, "files": files}, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(json.dumps(facts, indent=1, sort_keys=True))


def _round(source: Path, target: Path) -> None:
    weights = {name: weight.bfloat16() for name, weight in load_file(source / WEIGHTS).items()}
    save_file(weights, target / WEIGHTS, metadata={"format": "pt"})
    for path in source.glob("*.json"):
        if path.name not in TOKENIZER:
            shutil.copyfile(path, target / path.name)


def _measured(recipe: Recipe, prompts: list[list[int]]) -> dict[str, Any]:
    """Return the facts of the rounded models, and write the scale of their scores into their configs."""
    tokenizer = AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=False)
    policy = AutoModelForCausalLM.from_pretrained(FOLDER / "policy", dtype=torch.float32, **SAFE).eval()
    rows, fresh, count = held_out_rows(recipe, tokenizer, cache_folder())
    samples = untrained_samples(recipe, policy, prompts)
    facts: dict[str, Any] = {"policy_loss_nats": loss_nats(cast(LlamaForCausalLM, policy), rows), "reviews": count}
    for name in ("reward_model", "gold_model"):
        loaded = LlamaForSequenceClassification.from_pretrained(FOLDER / name, dtype=torch.float32, **SAFE).eval()
        model = cast(LlamaForSequenceClassification, loaded)
        mean, deviation = score_scale(CausalRewardModel(model), samples)
        config = FOLDER / name / "config.json"
        kept = {**json.loads(config.read_text(encoding="utf-8")), "score_mean": mean, "score_deviation": deviation}
        config.write_text(json.dumps({**kept, "dtype": "float32"}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        facts |= {f"{name}_{measure}": value for measure, value in reward_quality(model, rows, fresh).items()}
    return facts


if __name__ == "__main__":
    main()
