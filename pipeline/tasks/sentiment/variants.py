"""What the sentiment task has beyond the quickstart's models: SmolLM2 as policy, an encoder as reward model.

Both stand on the quickstart's models, which are built first: its tokenizer, its reward models and its prompts' films.
The gold model is the quickstart's, whatever the tier.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from pipeline.runtime.memory import keep_freed_memory
from pipeline.tasks.asset_cache import read_manifest
from pipeline.tasks.models import encoder as encoder_training
from pipeline.tasks.models.calibration import own_samples, score_scale
from pipeline.tasks.models.encoder import train_encoder
from pipeline.tasks.models.language_model import encode
from pipeline.tasks.models.pretrained import SAFE
from pipeline.tasks.models.smollm2 import SMOLLM2, load_smollm2
from pipeline.tasks.sentiment.reviews import PROMPT_WORDS, Review, ReviewTokens
from pipeline.tasks.sentiment.reward_models import CALIBRATED_REVIEWS, review_quality, seen_by_policy
from pipeline.tasks.sentiment.soft_labels import soft_labels
from pipeline.tasks.settings import SentimentSettings
from pipeline.trainers.base import quiet_transformers

# What the untrained policy says to these many prompts becomes 0 and 1 of the score.
MEASURED_PROMPTS = {"tiny": 512, "smollm2": 128}
MEASURED_TOKENS = 24
# Raised by hand when what is built changes.
TIER_VERSION = 1


def tier_made_of(settings: SentimentSettings, quickstart: dict[str, Any]) -> dict[str, Any]:
    """Return everything that decides what is built, as plain values, given the same of the quickstart's models."""
    chosen = {"policy": settings.policy, "reward_model": settings.reward_model, "tier": TIER_VERSION}
    measured = [MEASURED_PROMPTS[settings.policy], MEASURED_TOKENS, CALIBRATED_REVIEWS]
    found = {**quickstart, **chosen, "measured": measured}
    if settings.policy == "smollm2":
        found |= {"model": SMOLLM2.member_sha256, "prompt_words": PROMPT_WORDS}
    if settings.reward_model == "encoder":
        names = ("PASSES", "LEARNING_RATE_SHARE", "WARMUP_SHARE", "CONTEXT_TOKENS")
        found["encoder"] = [getattr(encoder_training, name) for name in names]
    return found


def build_tier(
    settings: SentimentSettings, source: Path, reviews: list[Review], cache: Path, folder: Path
) -> dict[str, Any]:
    """Fill ``folder`` and return facts for its manifest.

    Args:
        settings: Which tier.
        source: The quickstart's models of the same recipe.
        reviews: The recipe's.
        cache: Keeps downloads.
        folder: Gets ``policy``, ``reward_model``, ``gold_model`` and ``prompts.json``.
    """
    quiet_transformers()
    keep_freed_memory()
    own = AutoTokenizer.from_pretrained(source / "policy", trust_remote_code=False)
    policy, tokens = _policy(settings, source, cache, folder)
    prompts = _write_prompts(settings, source, reviews, tokens, folder)
    count, eos = MEASURED_PROMPTS[settings.policy], int(tokens.tokenizer.eos_token_id)
    measured = prompts["train"][:: max(1, len(prompts["train"]) // count)][:count]
    samples = own_samples(policy, measured, MEASURED_TOKENS, eos, False, settings.recipe.seed)
    test = [review for review in reviews if review.part == "test"]
    held_out, fresh = _held_out(tokens, test, settings.recipe.max_tokens)
    facts: dict[str, Any] = {"reviews": len(reviews)}
    for name, kind, model in _models(settings, source, own, reviews, folder):
        model.config.score_mean, model.config.score_deviation = 0.0, 1.0
        seen = seen_by_policy(model, kind, own, None if tokens.tiny else tokens.tokenizer, name)
        quality = review_quality(seen, held_out, fresh, eos)
        facts |= {f"{name}_{measure}": value for measure, value in quality.items()}
        model.config.score_mean, model.config.score_deviation = score_scale(seen, samples)
        model.save_pretrained(folder / name)
        own.save_pretrained(folder / name)
    if settings.policy == "smollm2":
        return facts
    shutil.copytree(source / "gold_model", folder / "gold_model")
    kept = read_manifest(source)["facts"].items()
    return {**facts, **{name: value for name, value in kept if name.startswith(("gold_model_", "policy_"))}}


def _policy(
    settings: SentimentSettings, source: Path, cache: Path, folder: Path
) -> tuple[PreTrainedModel, ReviewTokens]:
    """Return the policy and how it reads reviews, after it was saved."""
    if settings.policy == "tiny":
        shutil.copytree(source / "policy", folder / "policy")
        policy = AutoModelForCausalLM.from_pretrained(folder / "policy", **SAFE).eval()
        return policy, ReviewTokens(AutoTokenizer.from_pretrained(folder / "policy", trust_remote_code=False), True)
    policy, tokenizer = load_smollm2(cache)
    policy.save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    return policy, ReviewTokens(tokenizer, False)


def _write_prompts(
    settings: SentimentSettings, source: Path, reviews: list[Review], tokens: ReviewTokens, folder: Path
) -> dict[str, list[list[int]]]:
    """Return the prompts of training and evaluation: of the films that they are of in the quickstart."""
    prompts: dict[str, list[list[int]]]
    if settings.policy == "tiny":
        prompts = json.loads((source / "prompts.json").read_text())
    else:
        most = settings.recipe.max_tokens
        prompts = {
            part: [tokens.split(review.text, most)[0] for review in reviews if review.part == part]
            for part in ("train", "test")
        }
    (folder / "prompts.json").write_text(json.dumps(prompts))
    return prompts


def _held_out(
    tokens: ReviewTokens, reviews: list[Review], most_tokens: int
) -> tuple[list[tuple[list[int], list[int]]], list[bool]]:
    rows = [(tokens.split(review.text, most_tokens), review.fresh) for review in reviews]
    kept = [(row, fresh) for row, fresh in rows if row[1]]
    return [row for row, _ in kept], [fresh for _, fresh in kept]


def _models(
    settings: SentimentSettings, source: Path, own: Any, reviews: list[Review], folder: Path
) -> list[tuple[str, str, PreTrainedModel]]:
    """Return name, kind and model of the reward models that this tier does not take over as they are."""
    kind = settings.reward_model
    found = [("reward_model", kind, _encoder(settings, own, reviews, folder) if kind == "encoder" else None)]
    if settings.policy == "smollm2":
        # Its responses are scored on another scale.
        found.append(("gold_model", "causal", None))
    loader = AutoModelForSequenceClassification.from_pretrained
    return [(name, kind, loader(source / name, **SAFE) if model is None else model) for name, kind, model in found]


def _encoder(settings: SentimentSettings, own: Any, reviews: list[Review], folder: Path) -> PreTrainedModel:
    recipe, scratch = settings.recipe, folder / "scratch"
    chosen = [review for review in reviews if review.part == "train"]
    texts, fresh = [review.text for review in chosen], [review.fresh for review in chosen]
    targets = soft_labels(texts, fresh, recipe.teacher_share)
    model = train_encoder(recipe, own, encode(own, texts, recipe.max_tokens), fresh, targets, scratch)
    shutil.rmtree(scratch, ignore_errors=True)
    return model
