"""Judges a trained policy on held-out prompts, with the unshaped reward."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.ppo.losses import kl_estimate
from pipeline.ppo.settings import EvaluationSettings
from pipeline.ppo.trainer import PPOTrainer
from shaping.rollouts import Rollouts

# Every evaluation of a seed samples with the same random numbers, whatever the shape.
EVALUATION_STREAM = 7_919


@dataclass(frozen=True)
class SampleText:
    """One held-out prompt with the trained policy's response, kept word for word."""

    prompt: str
    response: str
    prompt_ids: list[int]
    response_ids: list[int]
    score: float


@dataclass(frozen=True)
class Evaluation:
    """Means over held-out prompts.

    Attributes:
        reward: Unshaped score, in reward-model units.
        kl_nats: Summed log ratio to the reference over a response.
        objective: ``J = reward - kl_coef * kl_nats``; higher is better.
        gold_reward: Score of the second reward model, which nothing was trained on.
        response_tokens: Length.
        distinct_bigrams: Distinct over all bigrams of the responses.
        entropy_nats: Entropy of a token.
        texts: The first responses, for the report.
    """

    reward: float
    kl_nats: float
    objective: float
    gold_reward: float
    response_tokens: float
    distinct_bigrams: float
    entropy_nats: float
    texts: tuple[SampleText, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the evaluation as plain values."""
        return {**asdict(self), "texts": [asdict(text) for text in self.texts]}


@torch.inference_mode()
def evaluate(trainer: PPOTrainer, settings: EvaluationSettings) -> Evaluation:
    """Return the evaluation of the trainer's current policy."""
    task = trainer.task
    count = min(settings.prompts, len(task.held_out_prompts))
    prompts = task.held_out_prompts.select(torch.arange(count))
    rollouts = trainer.sample(prompts, torch.Generator().manual_seed(trainer.seed * 1_000_003 + EVALUATION_STREAM))
    own, reference = trainer.actor(rollouts), trainer.reference(rollouts)
    mask = rollouts.response_mask
    scores = task.reward_model.prefix_scores(rollouts)[:, -1]
    adjustment = trainer.missing_eos_adjustment(rollouts)
    scores = scores if adjustment is None else scores + adjustment
    kl_nats = float((kl_estimate(own.log_probs, reference.log_probs, "k1") * mask).sum(dim=1).mean())
    reward = float(scores.mean())
    return Evaluation(
        reward=reward,
        kl_nats=kl_nats,
        objective=reward - trainer.settings.kl_coef * kl_nats,
        gold_reward=float(task.gold_model.prefix_scores(rollouts)[:, -1].mean()),
        response_tokens=float(rollouts.response_tokens.float().mean()),
        distinct_bigrams=distinct_bigrams(rollouts),
        entropy_nats=float((own.entropy * mask).sum() / mask.sum().clamp(min=1)),
        texts=tuple(_text(trainer, rollouts, scores, row) for row in range(min(settings.kept_texts, count))),
    )


def distinct_bigrams(rollouts: Rollouts) -> float:
    """Return distinct bigrams over all bigrams of the responses; 0 where there are none."""
    both = rollouts.response_mask[:, 1:]
    pairs = torch.stack([rollouts.response_ids[:, :-1][both], rollouts.response_ids[:, 1:][both]], dim=1)
    return len(torch.unique(pairs, dim=0)) / len(pairs) if len(pairs) else 0.0


def _text(trainer: PPOTrainer, rollouts: Rollouts, scores: Tensor, row: int) -> SampleText:
    tokenizer = trainer.task.tokenizer
    prompt_ids = rollouts.prompt_ids[row][rollouts.prompt_mask[row]].tolist()
    response_ids = rollouts.response_ids[row][rollouts.response_mask[row]].tolist()
    return SampleText(
        prompt=tokenizer.decode(prompt_ids, skip_special_tokens=True),
        response=tokenizer.decode(response_ids, skip_special_tokens=True),
        prompt_ids=prompt_ids,
        response_ids=response_ids,
        score=float(scores[row]),
    )
