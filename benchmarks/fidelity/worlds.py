"""Tasks with a known truth: the quickstart's policy and prompts, and a reward that is a sum of token effects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch

from benchmarks.fidelity.known_effects import KnownEffects, word_effects
from benchmarks.fidelity.taught import taught_task
from pipeline.tasks.models.calibration import own_samples, score_scale
from pipeline.tasks.sentiment.task import load_sentiment
from pipeline.trainers.base import Task

SEED = 0
# Frequent words, tied to no meaning here: one token in ten, so that most responses have some. True negations are rare.
FLIPPERS = ("a", "an", "the", "but", "not", "no", "never")
LEAST_LETTERS = 3
# Responses that decide which score is 0 and what its unit is.
SCALED_ON = 512


@dataclass(frozen=True)
class World:
    """A kind of known truth.

    Attributes:
        flippers: Words that turn the next token's effect round.
        about: It in words, for the tables.
        taught: Whether the reward is a network that was taught the truth, not the truth itself.
    """

    flippers: tuple[str, ...]
    about: str
    taught: bool = False


WORLDS: Mapping[str, World] = {
    "known_effects": World((), "the score is a sum of token effects"),
    "flipped_effects": World(
        FLIPPERS, f"the same, but the token behind one of {', '.join(FLIPPERS)} counts with its sign turned round"
    ),
    "taught_effects": World((), "the score is that of a network which was taught a sum of token effects", taught=True),
}
# All that decides a world beside its name: a run saved of another one is not taken for one of this.
RECIPE = (SEED, FLIPPERS, LEAST_LETTERS, SCALED_ON)


@lru_cache(maxsize=2)
def load_world(name: str, assets: str, tokens: int) -> Task:
    """Return the task of a world; its gold model is the truth.

    Args:
        name: One of ``WORLDS``.
        assets: The folder of the sentiment task's models.
        tokens: Of a response.
    """
    task = in_world(name, load_sentiment(Path(assets)), tokens)
    if not WORLDS[name].taught:
        return task
    return taught_task(task, truth_of(task), tokens, repr((Path(assets).name, RECIPE)))


def in_world(name: str, task: Task, tokens: int) -> Task:
    """Return a task with the world's truth as reward and as gold: 0 on average at the start, one deviation its unit."""
    raw = word_effects(task.tokenizer, WORLDS[name].flippers, LEAST_LETTERS, SEED)
    prompts = task.train_prompts.select(torch.arange(min(SCALED_ON, len(task.train_prompts))))
    samples = own_samples(task.policy, prompts.to_ids(), tokens, task.eos_token_id, False, SEED)
    mean, deviation = score_scale(raw, samples)
    truth = raw.standardised(mean, deviation)
    return replace(task, name=name, reward_model=truth, gold_model=truth, quality={})


def truth_of(task: Task) -> KnownEffects:
    """Return the known effects behind a task's reward."""
    assert isinstance(task.gold_model, KnownEffects)
    return task.gold_model
