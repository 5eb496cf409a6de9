"""The certificate: evidence, gathered at every step, that a shape moved the reward and never its total."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from shaping.method_names import CAUSAL, SUMS_TO_SCORE
from shaping.shape import Shape

if TYPE_CHECKING:
    # A worker whose trainer certifies itself needs neither.
    from torch import Tensor

    from shaping.rollouts import Rollouts

# Rounding of float32 sums over a few hundred tokens stays well below this.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Certificate:
    """What was seen of a shape while it was used.

    Attributes:
        largest_error: Largest ``|sum_t r_t - R| / max(1, |R|)`` over all responses checked.
        responses: Responses checked; empty ones carry no reward and are not counted.
        gamma: The discount of the run.
        causal: For each method that received reward, whether its credit depends on the past alone.
    """

    largest_error: float
    responses: int
    gamma: float
    causal: dict[str, bool]

    @property
    def sums_kept(self) -> bool:
        """Whether every response's rewards summed to its score."""
        return self.largest_error <= TOLERANCE

    @property
    def return_preserving(self) -> bool:
        """Whether every response's rewards summed to its score, and nothing was discounted."""
        return self.sums_kept and self.gamma == 1.0

    @property
    def is_causal(self) -> bool:
        """Whether reward-to-go is unbiased: no credit depends on later tokens."""
        return all(self.causal.values())

    @classmethod
    def empty(cls, shape: Shape) -> Certificate:
        """Return the certificate of a shape before any response was seen."""
        causal = {name: _is_causal(name, shape.closure) for name in shape.active_methods()}
        return cls(0.0, 0, shape.gamma, causal)

    def including(self, token_rewards: Tensor, scores: Tensor, rollouts: Rollouts) -> Certificate:
        """Return the certificate after checking one more batch (``B x T`` rewards, ``B`` scores)."""
        real = rollouts.policy_tokens > 0
        error = relative_error(token_rewards, scores, rollouts.policy_mask)
        largest = float(error[real].max()) if bool(real.any()) else 0.0
        # A NaN compares false to everything; it must not pass as a small error.
        largest = largest if largest == largest else float("inf")
        return Certificate(max(self.largest_error, largest), self.responses + int(real.sum()), self.gamma, self.causal)

    def merged(self, other: Certificate) -> Certificate:
        """Return one certificate for two runs of the same shape."""
        worst = max(self.largest_error, other.largest_error)
        return Certificate(worst, self.responses + other.responses, self.gamma, self.causal)

    def to_dict(self) -> dict[str, Any]:
        """Return the certificate as plain values, with its two conclusions."""
        return {**asdict(self), "return_preserving": self.return_preserving, "is_causal": self.is_causal}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Certificate:
        """Return the certificate of ``to_dict``'s values.

        Raises:
            KeyError: A value is missing.
            TypeError: One is of another kind.
            ValueError: One is no number.
        """
        causal = {str(name): bool(value) for name, value in dict(values["causal"]).items()}
        return cls(float(values["largest_error"]), int(values["responses"]), float(values["gamma"]), causal)


def relative_error(token_rewards: Tensor, scores: Tensor, policy_mask: Tensor) -> Tensor:
    """Return ``|sum_t r_t - R| / max(1, |R|)`` of each response, in float64: ``B``.

    Where more than that difference stands on what the policy did not write, it counts in its place: such reward reaches
    the policy in some trainers and not in others. A NaN among the rewards or scores gives NaN.

    Args:
        token_rewards: ``B x T``.
        scores: ``B``: what each row shall sum to.
        policy_mask: ``B x T``: true on what the policy wrote.
    """
    rewards, totals = token_rewards.double(), scores.double()
    astray = (rewards * ~policy_mask).abs().sum(dim=1)
    return (rewards.sum(dim=1) - totals).abs().maximum(astray) / totals.abs().clamp(min=1)


def _is_causal(name: str, closure: str) -> bool:
    """Return whether a method's closed credit depends on the past alone.

    A residual that is spread reaches early tokens, and its share depends on where the response ends. On the first token
    a causal method's residual is the score of what stood there before it.
    """
    return name in CAUSAL and (closure != "spread" or name in SUMS_TO_SCORE)
