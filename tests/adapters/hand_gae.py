"""Advantages worked out token by token, in plain Python: the oracle of every trainer's own."""

from __future__ import annotations

import math


def hand_gae(
    rewards: list[float], values: list[float], gamma: float, gae_lambda: float
) -> tuple[list[float], list[float]]:
    """Return advantages and returns of one response: ``A_t = sum_k (gamma lambda)^k delta_{t+k}``."""
    ahead = [*values[1:], 0.0]
    deltas = [reward + gamma * after - value for reward, after, value in zip(rewards, ahead, values, strict=True)]
    advantages = [
        math.fsum((gamma * gae_lambda) ** later * delta for later, delta in enumerate(deltas[place:]))
        for place in range(len(deltas))
    ]
    return advantages, [advantage + value for advantage, value in zip(advantages, values, strict=True)]


def hand_whitened(rows: list[list[float]]) -> list[list[float]]:
    """Return rows with mean 0 and unbiased variance 1 over all of them."""
    flat = [value for row in rows for value in row]
    mean = math.fsum(flat) / len(flat)
    variance = math.fsum((value - mean) ** 2 for value in flat) / (len(flat) - 1)
    return [[(value - mean) / math.sqrt(variance + 1e-8) for value in row] for row in rows]
