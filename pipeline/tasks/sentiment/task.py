"""Film reviews: continue the first words of a review so that it reads as a fresh one.

The quickstart's models are built here; SmolLM2 as policy and an encoder as reward model in ``review_tiers``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.runtime.memory import keep_freed_memory
from pipeline.tasks.asset_cache import asset_folder, build_once, cache_folder, is_complete, read_manifest
from pipeline.tasks.models.calibration import own_samples, score_scale
from pipeline.tasks.models.language_model import encode, fine_tune, loss_nats, train_tokenizer
from pipeline.tasks.models.pretrained import SAFE
from pipeline.tasks.models.reward_model import reward_quality, train_reward_model
from pipeline.tasks.prompt_file import PromptRow
from pipeline.tasks.sentiment.reviews import (
    CORPUS,
    PROMPT_TOKENS,
    SHARES,
    Review,
    ReviewTokens,
    fetch_reviews,
    read_reviews,
)
from pipeline.tasks.sentiment.reward_models import load_reviewer
from pipeline.tasks.sentiment.shipped import shipped_digest, unpack
from pipeline.tasks.sentiment.soft_labels import soft_labels
from pipeline.tasks.sentiment.variants import build_tier, tier_made_of
from pipeline.tasks.settings import Recipe, SentimentSettings
from pipeline.trainers.base import Judge, Prompts, Task, quiet_transformers
from shaping.reward_models import CausalRewardModel, RewardModel
from shaping.rollouts import Rollouts

NORMALIZATION_PROMPTS = 512
NORMALIZATION_TOKENS = 24
# What is built, one on top of the other.
BUILDING = {
    "quickstart": "building tokenizer, policy and two reward models",
    "encoder": "training an encoder of reviews",
    "smollm2": "fetching SmolLM2-135M-Instruct and measuring its reviews",
}


def location(settings: SentimentSettings, cache: Path) -> Path:
    """Return where the task's models stand, whether they are built or not."""
    return asset_folder(cache, "sentiment", _all_made_of(settings))


def unbuilt(settings: SentimentSettings, cache: Path) -> str:
    """Return what has to be built, in words; empty where the cache has it."""
    if is_complete(location(settings, cache)):
        return ""
    shipped = settings.recipe.weights == "shipped"
    if shipped and settings.is_quickstart:
        return "unpacking the film reviews' models, once"
    steps = {
        "quickstart": not shipped and not is_complete(asset_folder(cache, "sentiment", made_of(settings.recipe))),
        "encoder": settings.reward_model == "encoder",
        "smollm2": settings.policy == "smollm2",
    }
    left = [BUILDING[step] for step, needed in steps.items() if needed]
    return f"{', '.join(left)}, once"


def prepare(settings: SentimentSettings, cache: Path) -> Path:
    """Return the folder of the task's models, building them when they are not in the cache."""
    if settings.is_quickstart:
        return build_sentiment(settings.recipe, cache)

    def build(folder: Path) -> dict[str, Any]:
        reviews = _limited(read_reviews(fetch_reviews(cache)), settings.recipe)
        return build_tier(settings, build_sentiment(settings.recipe, cache), reviews, cache, folder)

    return build_once(cache, "sentiment", _all_made_of(settings), build)


def load(settings: SentimentSettings, folder: Path | None) -> Task:
    """Return the task from the folder that ``prepare`` returned."""
    assert folder is not None
    return load_sentiment(folder, settings)


def load_judge(settings: SentimentSettings, folder: Path | None, asked: Sequence[PromptRow]) -> Judge:
    """Return the reward model alone, with the ids of ``asked``: the first words of a review.

    Raises:
        ConfigError: A prompt is a chat.
    """
    assert folder is not None
    quiet_transformers()
    for row in asked:
        row.check_plain()
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy", trust_remote_code=False)
    if settings.policy == "tiny":
        prompts = tuple(ReviewTokens(tokenizer, tiny=True).prompt(row.text) for row in asked)
    else:
        prompts = tuple(row.ids(tokenizer) for row in asked)
    return Judge(tokenizer, _reward_model(settings, folder, tokenizer), prompts)


def build_sentiment(recipe: Recipe, cache: Path | None = None) -> Path:
    """Return the folder of the task's models, building them when they are not in the cache."""
    cache = cache or cache_folder()
    build = _unpack if recipe.weights == "shipped" else _build
    return build_once(cache, "sentiment", made_of(recipe), lambda folder: build(recipe, cache, folder))


def made_of(recipe: Recipe) -> dict[str, Any]:
    """Return everything that decides what is built, as plain values: the key of the cache."""
    chosen = {"shipped": shipped_digest()} if recipe.weights == "shipped" else recipe.model_dump()
    return {**chosen, "corpus": CORPUS.member_sha256, "prompt_tokens": PROMPT_TOKENS, "shares": SHARES}


def load_sentiment(folder: Path, settings: SentimentSettings | None = None) -> Task:
    """Return the task from a folder that ``build_sentiment`` made, or ``prepare`` for other ``settings``."""
    quiet_transformers()
    settings = settings or SentimentSettings()
    prompts = json.loads((folder / "prompts.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy", trust_remote_code=False)
    return Task(
        name="sentiment",
        policy=AutoModelForCausalLM.from_pretrained(folder / "policy", **SAFE).eval(),
        tokenizer=tokenizer,
        reward_model=_reward_model(settings, folder, tokenizer),
        gold_model=load_reviewer(folder / "gold_model", "causal", _foreign(settings, tokenizer)),
        train_prompts=Prompts.of_ids(prompts["train"]),
        held_out_prompts=Prompts.of_ids(prompts["test"]),
        quality=read_manifest(folder)["facts"],
    )


def _all_made_of(settings: SentimentSettings) -> dict[str, Any]:
    quickstart = made_of(settings.recipe)
    return quickstart if settings.is_quickstart else tier_made_of(settings, quickstart)


def _reward_model(settings: SentimentSettings, folder: Path, tokenizer: Any) -> RewardModel:
    return load_reviewer(folder / "reward_model", settings.reward_model, _foreign(settings, tokenizer))


def _foreign(settings: SentimentSettings, tokenizer: Any) -> Any | None:
    """Return the policy's tokenizer where it is another one than the reward models'."""
    return None if settings.policy == "tiny" else tokenizer


def _build(recipe: Recipe, cache: Path, folder: Path) -> dict[str, Any]:
    quiet_transformers()
    keep_freed_memory()
    reviews = _limited(read_reviews(fetch_reviews(cache)), recipe)
    train = [review for review in reviews if review.part != "test"]
    tokenizer = train_tokenizer([review.text for review in train], recipe.vocabulary)
    rows = {id(review): row for review, row in zip(reviews, _encoded(tokenizer, reviews, recipe), strict=True)}
    scratch = folder / "scratch"
    policy = fine_tune(recipe, tokenizer, [rows[id(review)] for review in train], scratch)
    policy.save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    test = [review for review in reviews if review.part == "test"]
    held_out, test_fresh = [rows[id(review)] for review in test], [review.fresh for review in test]
    prompts = _write_prompts(folder, reviews, list(rows.values()))
    samples = untrained_samples(recipe, policy, prompts["train"])
    facts: dict[str, Any] = {"policy_loss_nats": loss_nats(policy, held_out), "reviews": len(reviews)}
    for name, part in (("reward_model", "train"), ("gold_model", "gold")):
        chosen = [review for review in reviews if review.part == part]
        fresh = [review.fresh for review in chosen]
        targets = soft_labels([review.text for review in chosen], fresh, recipe.teacher_share)
        model = train_reward_model(recipe, policy, [rows[id(review)] for review in chosen], fresh, targets, scratch)
        mean, deviation = score_scale(CausalRewardModel(model), samples)
        model.config.score_mean, model.config.score_deviation = mean, deviation
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        quality = reward_quality(model, held_out, test_fresh)
        facts.update({f"{name}_{measure}": value for measure, value in quality.items()})
    shutil.rmtree(scratch, ignore_errors=True)
    return facts


def _unpack(recipe: Recipe, cache: Path, folder: Path) -> dict[str, Any]:
    facts, reviews = unpack(folder), read_reviews(fetch_reviews(cache))
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy", trust_remote_code=False)
    _write_prompts(folder, reviews, _encoded(tokenizer, reviews, recipe))
    return facts


def _write_prompts(folder: Path, reviews: list[Review], rows: list[list[int]]) -> dict[str, list[list[int]]]:
    """Write the first ids of every review, of the training and held out, and return them."""
    prompts = {
        part: _prompt_ids([row for review, row in zip(reviews, rows, strict=True) if review.part == part])
        for part in ("train", "test")
    }
    (folder / "prompts.json").write_text(json.dumps(prompts))
    return prompts


def untrained_samples(recipe: Recipe, policy: Any, prompts: list[list[int]]) -> Rollouts:
    """Return what the untrained policy says: the mean of its scores becomes 0, their standard deviation 1."""
    asked, eos = prompts[:NORMALIZATION_PROMPTS], int(policy.config.eos_token_id)
    return own_samples(policy, asked, NORMALIZATION_TOKENS, eos, False, recipe.seed)


def held_out_rows(recipe: Recipe, tokenizer: Any, cache: Path) -> tuple[list[list[int]], list[bool], int]:
    """Return the held-out reviews' ids, which of them are fresh, and how many reviews there are in all."""
    reviews = _limited(read_reviews(fetch_reviews(cache)), recipe)
    test = [review for review in reviews if review.part == "test"]
    return _encoded(tokenizer, test, recipe), [review.fresh for review in test], len(reviews)


def _limited(reviews: list[Review], recipe: Recipe) -> list[Review]:
    """Return every k-th review, so that a small recipe keeps all parts and both labels."""
    if recipe.max_reviews is None or len(reviews) <= recipe.max_reviews:
        return reviews
    return reviews[:: len(reviews) // recipe.max_reviews][: recipe.max_reviews]


def _encoded(tokenizer: Any, reviews: list[Review], recipe: Recipe) -> list[list[int]]:
    return encode(tokenizer, [review.text for review in reviews], recipe.max_tokens)


def _prompt_ids(rows: list[list[int]]) -> list[list[int]]:
    return [row[:PROMPT_TOKENS] for row in rows if len(row) > PROMPT_TOKENS]
