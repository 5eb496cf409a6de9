"""Whether a reward model's score along a response is a score of what stands there so far.

Credit by prefix differences rests on it. A prefix is held against the same prefix closed by end-of-sequence, which
the reward model reads as a whole response, and against the whole response that it became.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from shaping.reward_models import RewardModel
from shaping.rollouts import Rollouts

PREFIX_TOKENS = (4, 8, 12, 16, 24)


def prefix_calibration(
    reward_model: RewardModel, prompts: Sequence[list[int]], responses: Sequence[list[int]], eos_id: int
) -> dict[str, float]:
    """Return correlations over responses that go on after ``N`` tokens, for several ``N``.

    ``closed_correlation_N`` is between the score after ``N`` tokens and that of the ``N`` tokens closed by
    end-of-sequence; ``final_correlation_N`` is between it and the score of the whole response. An ``N`` that fewer
    than three responses reach is left out.

    Args:
        reward_model: Scores every prefix; without a score for each token it takes a pass for each.
        prompts: Token ids.
        responses: Token ids, one for each prompt, closed by end-of-sequence or cut.
        eos_id: End-of-sequence.
    """
    along = reward_model.prefix_scores(Rollouts.of_ids(list(prompts), list(responses)))
    found: dict[str, float] = {}
    for tokens in PREFIX_TOKENS:
        longer = [row for row, response in enumerate(responses) if len(response) > tokens + 1]
        if len(longer) < 3:
            continue
        closed = [[*responses[row][:tokens], eos_id] for row in longer]
        ended = reward_model.prefix_scores(Rollouts.of_ids([prompts[row] for row in longer], closed))[:, -1]
        early = along[longer, tokens]
        found[f"closed_correlation_{tokens}"] = correlation(early, ended)
        found[f"final_correlation_{tokens}"] = correlation(early, along[longer, -1])
    return found


def correlation(first: Tensor, second: Tensor) -> float:
    """Return Pearson's correlation of two vectors."""
    return float(torch.corrcoef(torch.stack([first, second]))[0, 1])
