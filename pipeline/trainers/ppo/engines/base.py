"""What an engine is: it samples responses of the policy that is trained, and says how likely each token was to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from pipeline.trainers.base import Prompts
from pipeline.trainers.ppo.rollout import Sampled
from shaping.rollouts import Rollouts, padded

# Seeds of requests lie below it: what every engine takes as one.
SEEDS = 2**31


class SamplingEngine(Protocol):
    """Samples responses of one policy."""

    def sample(self, prompts: Prompts, uniforms: Tensor, at_once: int | None) -> Sampled:
        """Return a response to each prompt.

        Args:
            prompts: On the policy's device.
            uniforms: ``T x B`` random numbers from 0 to 1, which decide what is sampled.
            at_once: Responses that are sampled at a time; ``None`` samples all.
        """
        ...

    def policy_changed(self) -> None:
        """Sample from the policy's new weights from now on."""
        ...

    def close(self) -> None:
        """Give back what is held, processes among it."""
        ...


def seeds_of(uniforms: Tensor) -> list[int]:
    """Return a seed for each response from the first of its random numbers: ``B`` of them."""
    return [int(each) for each in (uniforms[0].double() * SEEDS).long().clamp(max=SEEDS - 1)]


def sampled_of(
    prompts: Prompts, tokens: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]], fill: int
) -> Sampled:
    """Return what an engine gave to ``B`` prompts as a batch; shorter responses are padded with ``fill``."""
    device = prompts.ids.device
    ids, mask = padded([list(row) for row in tokens], left=False, device=device)
    said = torch.zeros(ids.shape)
    for row, found in enumerate(log_probs):
        said[row, : len(found)] = torch.tensor(found)
    ids = torch.where(mask, ids, torch.full_like(ids, fill))
    return Sampled(Rollouts(prompts.ids, prompts.mask, ids, mask), None, said.to(device))
