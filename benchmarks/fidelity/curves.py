"""Deletion and insertion curves: how a score falls and rises as tokens go and come in the order of their credit.

With ``v`` the score of what is there, ``T`` tokens and ``top_k`` the ``k`` tokens of highest credit:

    insertion area  =  mean over k of v(top_k)             (trapezoids over k = 0 .. T)
    deletion area   =  mean over k of v(all without top_k)

Both are in score units (Petsiuk et al., arXiv 1806.07421, for pixels). What is compared is their difference,

    area between    =  insertion area - deletion area

because it needs no denominator and has a known zero. Of a random order each set of ``k`` tokens is as likely to come
first as to be left over, so that both areas have one expectation, whatever the game: the area between is 0. And of a
score that is a sum of token effects no order has more than that of the effects. The usual ratio to ``v(all) -
v(none)`` has no such zero, explodes where that is small, and turns its sign where the text is bad.

Tokens of equal credit, such as those of one span, stand together in random order: over draws, each followed by its
reverse, so that credit that is equal everywhere has an area between of 0 exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from shaping.credit.permutations import chains, with_reverses
from shaping.reward_models import RewardModel
from shaping.rollouts import Rollouts
from shaping.scoring import Coalitions, score_coalitions


@dataclass(frozen=True)
class Areas:
    """Areas under both curves of each response: ``B`` each, score units.

    Attributes:
        insertion: Higher is better.
        deletion: Lower is better.
    """

    insertion: Tensor
    deletion: Tensor

    @property
    def between(self) -> Tensor:
        """The area between both curves: ``B``; higher is better, 0 is a random order's."""
        return self.insertion - self.deletion


def find_areas(
    reward_model: RewardModel, rollouts: Rollouts, credit: Tensor, draws: int, generator: torch.Generator
) -> Areas:
    """Return the areas of the order of ``credit`` (``B x T``), a mean over ``draws`` orders of what is equal.

    Args:
        reward_model: Scores what is there.
        rollouts: Responses of one length, all of it tokens that can be taken away.
        credit: Higher comes first.
        draws: An even number.
        generator: Of the orders.
    """
    along = orders(credit, draws, generator)
    # What is left when the first k of an order are gone is what has come when the order is begun from its end.
    both = torch.cat([along, along.flip(2)], dim=1)
    area = trapezoids(insertion_curves(reward_model, rollouts, both)).double()
    return Areas(area[:, :draws].mean(dim=1), area[:, draws:].mean(dim=1))


def orders(credit: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """Return ``B x draws x T`` orders of the tokens, highest credit first."""
    assert draws % 2 == 0
    ties = torch.rand(len(credit), draws // 2, credit.shape[1], generator=generator).argsort(dim=2)
    ties = with_reverses(ties)
    shuffled = credit[:, None].expand(-1, draws, -1).gather(2, ties)
    return ties.gather(2, shuffled.argsort(dim=2, descending=True, stable=True))


def insertion_curves(reward_model: RewardModel, rollouts: Rollouts, along: Tensor) -> Tensor:
    """Return the scores as tokens come along orders: ``B x n x T`` orders to ``B x n x (T + 1)`` scores."""
    count, tokens = len(rollouts), along.shape[2]
    assert bool(rollouts.response_mask.all()) and rollouts.response_ids.shape[1] == tokens
    index = torch.arange(tokens).expand(count, -1)
    plan = [Coalitions(torch.arange(count), chains(along), index)]
    return score_coalitions(reward_model, rollouts, plan).values[0].view(count, -1, tokens + 1)


def trapezoids(curves: Tensor) -> Tensor:
    """Return the area under curves over the share of tokens, from 0 to 1: ``... x (T + 1)`` to ``...``."""
    return (curves[..., 1:] + curves[..., :-1]).mean(dim=-1) / 2
