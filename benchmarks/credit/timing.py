"""What credit costs: processor seconds, forwarded tokens, and how near the engine comes to the model's own peak."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.credit.accuracy import UNITS, batch_of, spans
from benchmarks.credit.judge import Judge
from benchmarks.credit.peers import Estimator, Values
from shaping import METHODS, CausalRewardModel

PEER_BATCH = 32
PEAK_SHAPES = ((128, 16), (64, 32), (32, 64), (16, 128))


@dataclass(frozen=True)
class Cost:
    """What one response's credit cost: seconds, forwarded tokens, seconds inside the model."""

    seconds: float
    tokens: float
    model_seconds: float


def clock(device: torch.device) -> float:
    """Return processor seconds of this process, or on a GPU wall seconds once its work is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def engine_cost(
    judge: Judge, reward_model: CausalRewardModel, prompt_tokens: int, responses: int, budget: int, skip: int = 0
) -> Cost:
    """Return what this project's sampled Shapley values cost for each response of a batch."""
    rollouts = judge.rollouts(prompt_tokens, responses, skip).to(reward_model.model.device)
    batch = batch_of(judge, reward_model, rollouts, spans(budget=budget, estimator="kernel"))
    with _timed_model(reward_model) as spent:
        start = clock(reward_model.model.device)
        credit = METHODS["shapley"].credit(batch)
        seconds = clock(reward_model.model.device) - start
    return Cost(seconds / responses, credit.forwarded_tokens / responses, spent[0] / responses)


@torch.inference_mode()
def peer_cost(
    judge: Judge, reward_model: CausalRewardModel, prompt_tokens: int, row: int, budget: int, estimate: Estimator
) -> Cost:
    """Return what a peer costs for one response over batched Hugging Face forward passes."""
    rollouts = judge.rollouts(prompt_tokens, 1, skip=row)
    batch = batch_of(judge, reward_model, rollouts.to(reward_model.model.device), spans())
    prompt, response = rollouts.prompt_ids[0].tolist(), rollouts.response_ids[0].tolist()
    units = batch.unit_index[0].tolist()
    spent, tokens = [0.0], [0]

    def game(coalitions: NDArray[np.bool_]) -> Values:
        rows = [
            [
                *prompt,
                *(t for t, unit in zip(response, units, strict=True) if present[unit]),
                judge.tokenizer.eos_token_id,
            ]
            for present in coalitions
        ]
        found = []
        for start in range(0, len(rows), PEER_BATCH):
            part = rows[start : start + PEER_BATCH]
            before = clock(reward_model.model.device)
            found.append(_plain_scores(reward_model, part))
            spent[0] += clock(reward_model.model.device) - before
            tokens[0] += len(part) * max(len(row) for row in part)
        return np.concatenate(found)

    start = clock(reward_model.model.device)
    estimate(game, UNITS, budget, row)
    return Cost(clock(reward_model.model.device) - start, tokens[0], spent[0])


def peak_tokens_per_second(reward_model: CausalRewardModel) -> float:
    """Return the model's own best: plain forward passes of full rectangles, the best of a few shapes."""
    model, best = reward_model.model, 0.0
    for shape in PEAK_SHAPES:
        ids = torch.randint(0, model.config.vocab_size, shape, device=model.device)
        with torch.inference_mode():
            start = clock(model.device)
            model.base_model(input_ids=ids, use_cache=False)
            best = max(best, ids.numel() / (clock(model.device) - start))
    return best


def _plain_scores(reward_model: CausalRewardModel, rows: list[list[int]]) -> Values:
    model = reward_model.model
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=model.device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=model.device)
    hidden = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    last = hidden[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])]
    raw = model.score(last).squeeze(-1)
    scores: Values = ((raw.double() - reward_model.mean) / reward_model.deviation).cpu().numpy()
    return scores


@contextmanager
def _timed_model(reward_model: CausalRewardModel) -> Iterator[list[float]]:
    """Count the seconds spent inside the model's forward passes."""
    base, spent = reward_model.model.base_model, [0.0]
    plain: Callable[..., object] = base.forward

    def timed(*arguments: object, **options: object) -> object:
        start = clock(reward_model.model.device)
        result = plain(*arguments, **options)
        spent[0] += clock(reward_model.model.device) - start
        return result

    base.forward = timed
    try:
        yield spent
    finally:
        base.forward = plain
