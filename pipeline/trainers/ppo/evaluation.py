"""Judges a trained policy on held-out prompts, with the unshaped reward."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pipeline.trainers.base import SampleText
from pipeline.trainers.ppo.losses import masked_mean
from pipeline.trainers.ppo.trainer import PPOTrainer
from shaping.alignment import texts_of
from shaping.reward_models import RewardModel
from shaping.rollouts import Rollouts
from shaping.scoring import score_responses

# Every evaluation of a seed samples with the same random numbers, whatever the shape.
EVALUATION_STREAM = 7_919


@dataclass(frozen=True)
class Evaluation:
    """Means over held-out prompts.

    Attributes:
        reward: Unshaped score, in reward-model units.
        kl_nats: Summed log ratio to the reference over a response.
        objective: ``J = reward - kl_price * kl_nats``; higher is better.
        gold_reward: Score of the second reward model, which nothing was trained on; ``None`` where there is none.
        response_tokens: Length.
        distinct_unigrams: Distinct over all tokens of the responses.
        distinct_bigrams: Distinct over all pairs of neighbours.
        distinct_trigrams: Distinct over all runs of three.
        entropy_nats: Entropy of a token.
        texts: The first responses, for the report.
    """

    reward: float
    kl_nats: float
    objective: float
    gold_reward: float | None
    response_tokens: float
    distinct_unigrams: float
    distinct_bigrams: float
    distinct_trigrams: float
    entropy_nats: float
    texts: tuple[SampleText, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the evaluation as plain values."""
        return {**asdict(self), "texts": [asdict(text) for text in self.texts]}


@torch.no_grad()
def evaluate(trainer: PPOTrainer, prompts: int, kept_texts: int = 0) -> Evaluation:
    """Return the evaluation of the trainer's current policy.

    Args:
        trainer: Whose policy, models and held-out prompts are used.
        prompts: Held-out prompts, from the first on.
        kept_texts: Responses kept word for word.

    Raises:
        TrialFailed: A score is not finite (``nan``).
    """
    task = trainer.task
    count = min(prompts, len(task.held_out_prompts))
    trainer.processes.check_rows(count, "held-out prompts")
    chosen = task.held_out_prompts.select(torch.arange(count))
    generator = torch.Generator().manual_seed(trainer.seed * 1_000_003 + EVALUATION_STREAM)
    rollouts, observed = trainer.sample(chosen, generator)
    mask = rollouts.response_mask
    scores = _scores(trainer, task.reward_model, rollouts)
    adjustment = trainer.missing_eos_adjustment(rollouts)
    scores = scores if adjustment is None else scores + adjustment
    kl_nats, reward = observed.kl_nats(mask), float(scores.mean())
    gold = task.gold_model
    return Evaluation(
        reward=reward,
        kl_nats=kl_nats,
        objective=reward - trainer.kl_price * kl_nats,
        gold_reward=None if gold is None else float(_scores(trainer, gold, rollouts).mean()),
        response_tokens=float(rollouts.response_tokens.float().mean()),
        distinct_unigrams=distinct_ngrams(rollouts, 1),
        distinct_bigrams=distinct_ngrams(rollouts, 2),
        distinct_trigrams=distinct_ngrams(rollouts, 3),
        entropy_nats=float(masked_mean(observed.own.entropy, mask)),
        texts=tuple(_text(trainer, rollouts, scores, row) for row in range(min(kept_texts, count))),
    )


def _scores(trainer: PPOTrainer, model: RewardModel, rollouts: Rollouts) -> Tensor:
    def scored(given: Rollouts) -> Tensor:
        return trainer.portions.passes(model, partial(score_responses, model, given))

    return trainer.processes.each(rollouts, scored)


def distinct_ngrams(rollouts: Rollouts, size: int) -> float:
    """Return distinct over all runs of ``size`` tokens within responses (Li et al., arXiv 1510.03055); 0 for none."""
    if rollouts.response_ids.shape[1] < size:
        return 0.0
    runs, whole = (each.unfold(1, size, 1) for each in (rollouts.response_ids, rollouts.response_mask))
    runs = runs[whole.all(dim=2)]
    return len(torch.unique(runs, dim=0)) / len(runs) if len(runs) else 0.0


def _text(trainer: PPOTrainer, rollouts: Rollouts, scores: Tensor, row: int) -> SampleText:
    tokenizer = trainer.task.tokenizer
    prompt_ids = rollouts.prompt_ids[row][rollouts.prompt_mask[row]].tolist()
    response_ids = rollouts.response_ids[row][rollouts.response_mask[row]].tolist()
    prompt, response = texts_of(tokenizer, [prompt_ids, response_ids])
    return SampleText(
        prompt=prompt,
        response=response,
        prompt_ids=prompt_ids,
        response_ids=response_ids,
        score=float(scores[row]),
    )
