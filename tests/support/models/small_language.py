"""A language of 27 responses, small enough to be enumerated, with a reference policy and shaped rewards."""

from functools import cache
from itertools import product

import torch

from shaping import CausalRewardModel, Certificate, Shape, Shaper
from tests.support.models.tiny_models import (
    BOS,
    PAD,
    SCORE_DEVIATION,
    SCORE_MEAN,
    encode,
    make_rollouts,
    tiny_classifier,
    tiny_tokenizer,
)

LENGTH = 3
# One of the three tokens ends a span, so that responses have one, two or three units.
ALPHABET = [*encode("good")[:1], *encode("bad")[:1], *encode("x.")[-1:]]
LANGUAGE = list(product(range(3), repeat=LENGTH))


def every_response():
    return make_rollouts([[BOS, 40]] * 27, [[ALPHABET[token] for token in response] for response in LANGUAGE])


def reference_log_probs():
    """Return ``27 x 3`` log-probabilities of a random policy over the three tokens."""
    table = torch.randn(1 + 3 + 9, 3, generator=torch.Generator().manual_seed(0)).double().log_softmax(dim=1)
    row = {prefix: index for index, prefix in enumerate(p for size in range(3) for p in product(range(3), repeat=size))}
    return torch.tensor([[float(table[row[y[:t]], y[t]]) for t in range(LENGTH)] for y in LANGUAGE])


@cache
def judge(eos=None):
    return CausalRewardModel(tiny_classifier(), SCORE_MEAN, SCORE_DEVIATION, eos_token_id=eos, mask_token_id=PAD)


def shaped(weights, rollouts=None, eos=None, **changes):
    shape = Shape(weights=weights, **{"budget": 6, "max_units": 4, **changes})
    rollouts = every_response() if rollouts is None else rollouts
    result = Shaper(shape, judge(eos), tiny_tokenizer(), seed=3).shaped(rollouts)
    certificate = Certificate.empty(shape).including(result.token_rewards, result.scores, rollouts)
    return result.token_rewards, certificate
