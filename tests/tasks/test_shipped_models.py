"""The models that come with the project: whole, small, as good as they were measured, and what the recipe asks for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.tasks.asset_cache import cache_folder, read_manifest
from pipeline.tasks.models.reward_model import reward_quality
from pipeline.tasks.registry import task_kind
from pipeline.tasks.sentiment import shipped
from pipeline.tasks.sentiment.task import build_sentiment, held_out_rows, load_sentiment
from pipeline.tasks.settings import InstructionSettings, Recipe, SentimentSettings
from shaping.errors import ShapetuneError

MEGABYTES = 8
SHIPPED = Recipe(weights="shipped")


@pytest.fixture(scope="module")
def folder(tiny_assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    # The reviews, of which the prompts are made, are downloaded already.
    (cache / "downloads").symlink_to(tiny_assets.parent.parent / "downloads")
    return build_sentiment(SHIPPED, cache)


def test_the_manifest_names_every_file_and_they_are_small() -> None:
    files = shipped.shipped_manifest()["files"]
    there = {str(path.relative_to(shipped.FOLDER)) for path in shipped.FOLDER.rglob("*") if path.is_file()}
    assert there == {*files, "manifest.json"}
    assert sum(size for size, _ in files.values()) < MEGABYTES * 10**6
    for model in shipped.MODELS:
        weights = load_file(shipped.FOLDER / model / shipped.WEIGHTS)
        assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}


def test_they_are_of_the_default_recipe_and_say_how_they_were_made() -> None:
    manifest = shipped.shipped_manifest()
    assert manifest["recipe"] == Recipe().model_dump()
    assert manifest["command"] == "python -m pipeline.tasks.sentiment.ship"


def test_they_are_as_good_as_those_that_are_trained() -> None:
    facts = shipped.shipped_manifest()["facts"]
    assert facts["reward_model_accuracy"] > 0.71 and facts["reward_model_pair_accuracy"] > 0.80
    assert facts["reward_model_prefix_correlation_24"] > 0.82


def test_what_is_loaded_has_the_quality_that_was_recorded(folder: Path) -> None:
    task, facts = load_sentiment(folder), read_manifest(folder)["facts"]
    assert facts == shipped.shipped_manifest()["facts"]
    rows, fresh, count = held_out_rows(Recipe(), task.tokenizer, cache_folder())
    assert count == facts["reviews"]
    model = task.reward_model.model
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    found = reward_quality(model, rows[:400], fresh[:400])
    whole = facts["reward_model_accuracy"]
    # Four hundred reviews say as much of it as this.
    assert abs(found["accuracy"] - whole) < 4 * (whole * (1 - whole) / 400) ** 0.5
    assert task.reward_model.deviation > 0 and len(task.train_prompts) > 5_000


def test_a_damaged_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = shutil.copytree(shipped.FOLDER, tmp_path / "models")
    monkeypatch.setattr(shipped, "FOLDER", copied)
    config = copied / "policy" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "hidden_size": 64}))
    (tmp_path / "target").mkdir()
    with pytest.raises(ShapetuneError, match="is not what the project ships"):
        shipped.unpack(tmp_path / "target")


def test_a_recipe_of_ones_own_is_trained() -> None:
    with pytest.raises(ValueError, match="leave layers out, or set weights to built"):
        Recipe(weights="shipped", layers=2)
    assert "weights" not in Recipe().model_dump() and Recipe(weights="shipped").model_dump()["weights"] == "shipped"


def test_other_recipes_keep_their_place_in_the_cache(tmp_path: Path) -> None:
    built, taken = (SentimentSettings(recipe=recipe) for recipe in (Recipe(), SHIPPED))
    kind = task_kind(built)
    assert kind.location(built, tmp_path) != kind.location(taken, tmp_path)
    assert "building" in kind.unbuilt(built, tmp_path) and "unpacking" in kind.unbuilt(taken, tmp_path)
    rules = InstructionSettings(name="instruction", policy="reviews", recipe=SHIPPED)
    assert "unpacking" in task_kind(rules).unbuilt(rules, tmp_path)
