"""A reward model of the size that people use: SmolLM2-135M's layers with a head fitted to the film reviews.

The score is a log-odds of "fresh", read at end-of-sequence. Few layers make it a small model on which exact values
are affordable on a CPU; all layers make it the whole model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sklearn.linear_model import LogisticRegressionCV
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from pipeline.tasks.asset_cache import build_once, cache_folder, read_manifest
from pipeline.tasks.corpora import fetch
from pipeline.tasks.models.smollm2 import SMOLLM2
from pipeline.tasks.sentiment.reviews import fetch_reviews, read_reviews
from shaping import CausalRewardModel, Rollouts

FITTED_REVIEWS = 3_400
RESPONSE_TOKENS = 24
# SmolLM2 pads with its end-of-sequence, where scores are read: a token that no review has must pad in its place.
PADDING = 0


@dataclass(frozen=True)
class Judge:
    """The reward model, its tokenizer, and held-out reviews as ids.

    Attributes:
        folder: Where the model lies, for other libraries to load it.
        tokenizer: Its tokenizer.
        held_out: Tokens of reviews that the head was not fitted to, film by film.
        accuracy: Of the sign of the score on held-out reviews.
    """

    folder: Path
    tokenizer: Any
    held_out: list[list[int]]
    accuracy: float

    def reward_model(self, **options: Any) -> CausalRewardModel:
        """Return the reward model, read at end-of-sequence."""
        eos = int(self.tokenizer.eos_token_id)
        return CausalRewardModel.from_pretrained(self.folder, eos_token_id=eos, **options)

    def rollouts(self, prompt_tokens: int, responses: int, skip: int = 0) -> Rollouts:
        """Return held-out reviews of at least 24 tokens cut to 24, after prompts cut from other held-out reviews."""
        long = [row[:RESPONSE_TOKENS] for row in self.held_out if len(row) >= RESPONSE_TOKENS][skip : skip + responses]
        text = [token for row in self.held_out[::-1] for token in row]
        starts = [number * prompt_tokens for number in range(skip, skip + responses)]
        prompts = torch.tensor([text[start : start + prompt_tokens] for start in starts])
        ids = torch.tensor(long)
        return Rollouts(prompts, torch.ones_like(prompts).bool(), ids, torch.ones_like(ids).bool())


def load_judge(layers: int) -> Judge:
    """Return the judge of the first ``layers`` layers, built when the cache has none."""
    recipe = {"layers": layers, "fitted": FITTED_REVIEWS, "padding": PADDING, "model": SMOLLM2.member_sha256}
    folder = build_once(cache_folder(), "judge", recipe, lambda target: _build(target, layers))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    held_out = [review.text for review in read_reviews(fetch_reviews(cache_folder())) if review.part == "test"]
    return Judge(folder, tokenizer, tokenizer(held_out)["input_ids"], read_manifest(folder)["facts"]["accuracy"])


def _build(target: Path, layers: int) -> dict[str, Any]:
    model, tokenizer = _first_layers(layers)
    reviews = read_reviews(fetch_reviews(cache_folder()))
    train = [review for review in reviews if review.part == "train"][:FITTED_REVIEWS]
    test = [review for review in reviews if review.part == "test"]
    features, held_out = (_states(model, tokenizer, [review.text for review in part]) for part in (train, test))
    mean, deviation = features.mean(dim=0), features.std(dim=0)
    fit = LogisticRegressionCV(Cs=[1e-4, 1e-3, 1e-2, 1e-1], max_iter=2_000)
    fit.fit(((features - mean) / deviation).numpy(), [review.fresh for review in train])
    weight = torch.tensor(fit.coef_[0], dtype=torch.float32) / deviation
    bias = float(fit.intercept_[0]) - float(weight @ mean)
    model.score.weight.data[0] = weight
    # The head has no bias; the scale of the reward model carries it.
    model.config.score_mean = -bias
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    right = ((held_out @ weight + bias) > 0) == torch.tensor([review.fresh for review in test])
    return {"accuracy": float(right.float().mean()), "held_out_reviews": len(test)}


def _first_layers(layers: int) -> tuple[LlamaForSequenceClassification, Any]:
    file = fetch(SMOLLM2, cache_folder())
    whole = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    values = {name: value for name, value in whole.config.to_dict().items() if name != "quantization_config"}
    config = LlamaConfig(**{**values, "num_hidden_layers": layers, "num_labels": 1, "pad_token_id": PADDING})
    model = LlamaForSequenceClassification(config).eval()
    lower = {name: value for name, value in whole.model.state_dict().items() if name in model.model.state_dict()}
    model.model.load_state_dict(lower)
    return model, tokenizer


@torch.inference_mode()
def _states(model: LlamaForSequenceClassification, tokenizer: Any, texts: list[str]) -> Tensor:
    """Return the hidden states at end-of-sequence: ``n x d``."""
    rows = [[*row[:64], int(tokenizer.eos_token_id)] for row in tokenizer(texts)["input_ids"]]
    found = torch.zeros(len(rows), model.config.hidden_size)
    for part in torch.split(torch.tensor([len(row) for row in rows]).argsort(), 64):
        width = max(len(rows[row]) for row in part)
        ids = torch.tensor([rows[row] + [PADDING] * (width - len(rows[row])) for row in part])
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        found[part] = hidden[torch.arange(len(part)), torch.tensor([len(rows[row]) - 1 for row in part])]
    return found
