"""A network that was taught a known truth: what the methods find when they have to ask a network for it.

The quickstart's policy with a scalar head learns the true score of every prefix of the policy's own texts, by least
squares. Of every second text tokens are missing, as they are in coalitions, and the true score is that of what is left.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss
from transformers import LlamaForSequenceClassification

from benchmarks.fidelity.known_effects import KnownEffects
from pipeline.tasks.asset_cache import build_once, cache_folder, read_manifest
from pipeline.tasks.models.calibration import own_samples
from pipeline.tasks.models.reward_model import classifier_config
from pipeline.trainers.base import Task
from shaping.reward_models import CausalRewardModel
from shaping.rollouts import Rollouts, model_inputs, unpadded
from shaping.scoring import score_responses

TEXTS, BATCH, EPOCHS, LEARNING_RATE, LARGEST_MISSING_SHARE = 4_096, 64, 6, 2e-3, 0.9
JUDGED_ON = 256
SEED = 1


def taught_task(task: Task, truth: KnownEffects, tokens: int, made_of: str) -> Task:
    """Return the task with a network in place of the truth that it was taught; it is built once.

    Args:
        task: Whose policy writes, and becomes the network.
        truth: What is taught.
        tokens: Of a response.
        made_of: All that decides task and truth, for the cache.
    """
    recipe = {"of": made_of, "texts": TEXTS, "batch": BATCH, "epochs": EPOCHS, "rate": LEARNING_RATE, "tokens": tokens}
    recipe |= {"missing": LARGEST_MISSING_SHARE, "seed": SEED}
    folder = build_once(cache_folder(), "taught", recipe, lambda target: _build(target, task, truth, tokens))
    quality = {name: float(value) for name, value in read_manifest(folder)["facts"].items()}
    return replace(task, reward_model=CausalRewardModel.from_pretrained(folder), quality=quality)


def _build(target: Path, task: Task, truth: KnownEffects, tokens: int) -> dict[str, Any]:
    prompts = task.train_prompts.select(torch.arange(TEXTS) % len(task.train_prompts))
    texts = own_samples(task.policy, prompts.to_ids(), tokens, task.eos_token_id, False, SEED)
    model = teach(task.policy, truth, texts, EPOCHS)
    model.save_pretrained(target)
    prompts = task.held_out_prompts.select(torch.arange(min(JUDGED_ON, len(task.held_out_prompts))))
    unseen = own_samples(task.policy, prompts.to_ids(), tokens, task.eos_token_id, False, SEED)
    return {"explained": explained(CausalRewardModel(model), truth, unseen)}


def teach(policy: Any, truth: KnownEffects, texts: Rollouts, epochs: int) -> LlamaForSequenceClassification:
    """Return a classifier that began as the policy and was taught the truth on texts."""
    torch.manual_seed(SEED)
    model = LlamaForSequenceClassification(classifier_config(policy))
    model.model.load_state_dict(policy.model.state_dict())
    torch.nn.init.zeros_(model.score.weight)
    chooser = torch.Generator().manual_seed(SEED)
    shuffled = (torch.randperm(len(texts), generator=chooser) for _ in range(epochs))
    batches = [part for order in shuffled for part in torch.split(order, BATCH)]
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.01)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    for rows in batches:
        given = thinned(texts.select(rows), chooser)
        found, real = _along(model, given)
        loss = mse_loss(found[real], truth.prefix_scores(given)[real])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        falling.step()
    return model.eval()


def thinned(texts: Rollouts, chooser: torch.Generator) -> Rollouts:
    """Return texts, every second one with a random share of its response's tokens gone."""
    share = torch.rand(len(texts), 1, generator=chooser) * LARGEST_MISSING_SHARE
    share[::2] = 0
    kept = (torch.rand(texts.response_ids.shape, generator=chooser) >= share) & texts.response_mask
    return Rollouts.of_ids(unpadded(texts.prompt_ids, texts.prompt_mask), unpadded(texts.response_ids, kept))


def _along(model: LlamaForSequenceClassification, given: Rollouts) -> tuple[Tensor, Tensor]:
    """Return scores after the prompt and each token, and which of them are real: ``B x (T + 1)`` each."""
    hidden = model.model(**model_inputs(given)).last_hidden_state[:, given.prompt_ids.shape[1] - 1 :]
    real = torch.cat([torch.ones_like(given.response_mask[:, :1]), given.response_mask], dim=1)
    return model.score(hidden).squeeze(-1), real


def explained(network: CausalRewardModel, truth: KnownEffects, texts: Rollouts) -> float:
    """Return the share of the true scores' variance that the network explains on texts."""
    true = score_responses(truth, texts)
    return float(1 - (true - score_responses(network, texts)).var() / true.var())
