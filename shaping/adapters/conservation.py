"""The last look at token rewards before a trainer gets them."""

from __future__ import annotations

from torch import Tensor

from shaping.certificate import TOLERANCE, relative_error
from shaping.errors import ShapeError


def check_rewards(token_rewards: Tensor, scores: Tensor, policy_mask: Tensor) -> None:
    """Refuse rewards that a trainer would count, drop or scale in ways of its own.

    Args:
        token_rewards: ``B x T``.
        scores: ``B``: what each row shall sum to.
        policy_mask: ``B x T``: true on what the policy wrote. A row without any has nowhere to put its score.

    Raises:
        ShapeError: There is reward where the policy wrote nothing, or a row does not sum to its score.
    """
    astray = (token_rewards != 0) & ~policy_mask
    if bool(astray.any()):
        row, place = astray.nonzero()[0].tolist()
        raise ShapeError(
            f"token {place} of response {row} has reward {float(token_rewards[row, place]):g}, but the policy did not "
            "write it",
            "some trainers count such rewards and others drop them: move it to a token of the policy",
        )
    wrote = policy_mask.any(dim=1)
    # Not > TOLERANCE: NaN compares false to everything.
    broken = wrote & ~(relative_error(token_rewards, scores, policy_mask) <= TOLERANCE)
    if bool(broken.any()):
        row = int(broken.nonzero()[0, 0])
        raise ShapeError(
            f"the rewards of response {row} sum to {float(token_rewards[row].sum()):g}, not to its score "
            f"{float(scores[row]):g}",
            "use the token rewards of a Shaper as they are",
        )
