"""Responses with masked and hidden units, and what the library's model says of each as a whole row."""

from functools import lru_cache
from itertools import product

import pytest
import torch

from shaping import METHODS, CausalRewardModel
from shaping.variants import Variants
from tests.support.models.tiny_families import tiny_family
from tests.support.models.tiny_models import (
    BOS,
    EOS,
    SCORE_DEVIATION,
    SCORE_MEAN,
    make_rollouts,
    real_ids,
)
from tests.support.models.tiny_plans import unit_index

MASK = 7
OPERATORS = ["mask", "attention"]
BY_UNITS = sorted(name for name, method in METHODS.items() if method.by_units)
every_operator = pytest.mark.parametrize("absent", OPERATORS)


def rollouts_of_all_kinds():
    """Return responses with tokens alike in several places, the mask token itself, special tokens, and none at all."""
    short, long = [BOS, 9], [BOS, 9, 10, 11]
    rows = [
        (short, [20, 21, 20, 22]),
        (long, [20, 20, EOS]),
        (long, [EOS, 23, 24]),
        ([BOS], []),
        (short, [23]),
        (short, [20, 21, 25, MASK, 22]),
    ]
    return make_rollouts([prompt for prompt, _ in rows], [response for _, response in rows])


def every_coalition(rollouts, absent):
    """Return each response without every subset of its tokens that have a unit."""
    index, owner, keep = unit_index(rollouts), [], []
    for row in range(len(rollouts)):
        units, width = index[row].tolist(), len(real_ids(rollouts, row)[1])
        for members in product([True, False], repeat=max(units) + 1):
            owner.append(row)
            keep.append([place < width and (unit < 0 or members[unit]) for place, unit in enumerate(units)])
    return Variants(rollouts, torch.tensor(owner), torch.tensor(keep), absent)


def parts(variants):
    """Yield prompt, response and which of its tokens stay, of every variant, as lists."""
    for owner, keep in zip(variants.owner.tolist(), variants.keep.tolist(), strict=True):
        prompt, response = real_ids(variants.rollouts, owner)
        yield prompt, response, keep[: len(response)]


@torch.no_grad()
def plain(classifier, prompt, response, keep, absent, eos=None):
    """Return the library's score of one whole row, absent tokens replaced, or masked with positions as they are."""
    if eos is not None and response[-1:] != [eos]:
        response, keep = [*response, eos], [*keep, True]
    seen = [True] * len(prompt) + keep
    if absent == "mask":
        response = [token if kept else MASK for token, kept in zip(response, keep, strict=True)]
        raw = classifier(input_ids=torch.tensor([prompt + response])).logits[0, 0]
    else:
        positions = torch.arange(len(seen))[None]
        mask = torch.tensor([seen]).long()
        hidden = classifier.base_model(torch.tensor([prompt + response]), attention_mask=mask, position_ids=positions)
        last = max(place for place, there in enumerate(seen) if there)
        raw = classifier.score(hidden.last_hidden_state[0, last])[0]
    return (float(raw) - SCORE_MEAN) / SCORE_DEVIATION


@lru_cache(maxsize=16)
def classifier_of(family, **changes):
    return tiny_family(family, **changes)


def reward_model(family, **options):
    options = {"mask_token_id": MASK, **options}
    return CausalRewardModel(classifier_of(family), SCORE_MEAN, SCORE_DEVIATION, family, **options)
