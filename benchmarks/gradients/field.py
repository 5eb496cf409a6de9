"""Whose gradients are judged: every method in the papers' comparison at equal scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.fidelity.field import Contender, contenders, served
from benchmarks.papers.field import ENTRANTS, HEAD_ONLY, TUNED, Entrant
from shaping.reward_models import RewardModel
from shaping.shape import Shape


@dataclass(frozen=True)
class Row:
    """A mixture of methods at one lambda.

    Attributes:
        name: As tables call it: the entrant's, where it is one.
        gae_lambda: Its lambda.
        shares: Of each method, sparse reward too.
    """

    name: str
    gae_lambda: float
    shares: Mapping[str, float] = field(hash=False, compare=False)

    @property
    def is_usual(self) -> bool:
        """Whether it is the sparse reward as it comes: at lambda 1 its gradient is the true one, in expectation."""
        return self.name == TUNED and self.gae_lambda == 1

    @property
    def shown(self) -> str:
        """Its name, without what is no matter of its gradient."""
        return "sparse" if self.name == TUNED else self.name


def methods_of(base: Shape, reward_model: RewardModel) -> list[Contender]:
    """Return the methods that the comparison's entrants are mixed of, as far as the reward model serves them."""
    used = {method for _, shares in map(_shares, ENTRANTS) for method in shares}
    return [each for each in served(contenders(base), reward_model) if each.method in used]


def rows_of(methods: Sequence[str], lambdas: Sequence[float]) -> list[Row]:
    """Return who is judged, at every lambda.

    Args:
        methods: Those that the task's reward model can serve.
        lambdas: Weights of rewards to come.
    """
    named = {name: shares for name, shares in map(_shares, ENTRANTS) if shares and set(shares) <= set(methods)}
    return [Row(name, gae_lambda, shares) for name, shares in named.items() for gae_lambda in lambdas]


def _shares(entrant: Entrant) -> tuple[str, dict[str, float]]:
    """Return an entrant's name and the shares of its methods; none for one that is judged under another name.

    Controls of scale have the direction of what they scale, and critics are no matter of credit.
    """
    if entrant.reward_scale != 1 or entrant.name == HEAD_ONLY:
        return entrant.name, {}
    return entrant.name, Shape(weights=entrant.weights, balance=entrant.balance).active_methods()
