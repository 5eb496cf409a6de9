"""Enumerates a language of 27 responses: where the reward falls does not change the best policy, its total does."""

from itertools import product

import pytest
import torch

from shaping import METHODS, Certificate, Shape, Shaper
from tests.tiny_models import BOS, encode, make_rollouts, tiny_reward_model, tiny_tokenizer

KL_COEF = 0.5
LENGTH = 3
# One of the three tokens ends a span, so that responses have one, two or three units.
ALPHABET = [*encode("good")[:1], *encode("bad")[:1], *encode("x.")[-1:]]
LANGUAGE = list(product(range(3), repeat=LENGTH))
MIXES = [
    *({name: 1.0} for name in METHODS),
    {name: 1 / len(METHODS) for name in METHODS},
]


def every_response():
    return make_rollouts([[BOS, 40]] * 27, [[ALPHABET[token] for token in response] for response in LANGUAGE])


def reference_log_probs():
    """Return ``27 x 3`` log-probabilities of a random policy over the three tokens."""
    table = torch.randn(1 + 3 + 9, 3, generator=torch.Generator().manual_seed(0)).double().log_softmax(dim=1)
    row = {prefix: index for index, prefix in enumerate(p for size in range(3) for p in product(range(3), repeat=size))}
    return torch.tensor([[float(table[row[y[:t]], y[t]]) for t in range(LENGTH)] for y in LANGUAGE])


def optimal_policy(token_rewards):
    """Return the maximiser of ``E[sum r] - kl_coef KL``: the reference tilted by the total reward."""
    total = token_rewards.double().sum(dim=1) / KL_COEF
    return (reference_log_probs().double().sum(dim=1) + total).softmax(dim=0)


def optimal_policy_by_induction(token_rewards):
    """Return the same maximiser by soft backward induction, one token at a time, for prefix-measurable rewards."""
    rewards, reference = token_rewards.double(), reference_log_probs().double()
    future, policy = torch.zeros(27, dtype=torch.float64), torch.zeros(27, dtype=torch.float64)
    for position in reversed(range(LENGTH)):
        choice = reference[:, position] + (rewards[:, position] + future) / KL_COEF
        blocks = choice.view(3**position, 3, -1)
        torch.testing.assert_close(blocks, blocks[:, :, :1].expand_as(blocks), atol=1e-4, rtol=0)
        soft = blocks.logsumexp(dim=1, keepdim=True).expand_as(blocks)
        policy += (blocks - soft).flatten()
        future = KL_COEF * soft.flatten()
    return policy.exp()


def shaped(weights, **changes):
    shape = Shape(weights=weights, **{"budget": 6, "max_units": 4, **changes})
    rollouts = every_response()
    result = Shaper(shape, tiny_reward_model(), tiny_tokenizer(), seed=3)(rollouts)
    certificate = Certificate.empty(shape).including(result.token_rewards, result.scores, rollouts)
    return result.token_rewards, certificate


@pytest.mark.parametrize("balance", [1.0, 0.4])
@pytest.mark.parametrize("closure", ["last", "spread"])
@pytest.mark.parametrize("weights", MIXES, ids=lambda weights: "+".join(weights))
def test_optimal_policy_is_that_of_the_sparse_reward(weights, closure, balance):
    sparse, _ = shaped({"sparse": 1.0})
    rewards, certificate = shaped(weights, closure=closure, balance=balance)
    torch.testing.assert_close(optimal_policy(rewards), optimal_policy(sparse), atol=1e-5, rtol=0)
    assert certificate.return_preserving
    # The test must be able to fail: the best policy is neither the reference nor one response alone.
    assert 0.05 < float(optimal_policy(sparse).max()) < 0.99
    if set(weights) != {"sparse"}:
        assert float((rewards - sparse).abs().max()) > 1e-2


@pytest.mark.parametrize("weights", [{"prefix": 1.0}, {"prefix": 0.3, "sparse": 0.7}])
def test_token_by_token_optimum_of_causal_rewards_is_that_of_the_sparse_reward(weights):
    sparse, _ = shaped({"sparse": 1.0})
    rewards, certificate = shaped(weights)
    assert certificate.is_causal
    expected = optimal_policy(sparse)
    torch.testing.assert_close(optimal_policy_by_induction(sparse), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(optimal_policy_by_induction(rewards), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["lime", "shapley", "prefix"])
def test_reward_without_closure_is_detected(method, monkeypatch):
    monkeypatch.setattr("shaping.shaper.close", lambda credit, scores, rollouts, closure: credit)
    _, certificate = shaped({method: 1.0}, unit="token", budget=64)
    assert not certificate.return_preserving
    assert certificate.largest_error > 1e-2


def test_reward_without_closure_changes_the_optimal_policy(monkeypatch):
    sparse, _ = shaped({"sparse": 1.0})
    monkeypatch.setattr("shaping.shaper.close", lambda credit, scores, rollouts, closure: credit)
    rewards, _ = shaped({"lime": 1.0}, unit="token", budget=64)
    assert float((optimal_policy(rewards) - optimal_policy(sparse)).abs().max()) > 0.05


def test_dense_credit_on_top_of_the_full_score_changes_the_optimal_policy():
    # SCAR's public code adds both: a return of 2R, which halves the price of KL.
    sparse, _ = shaped({"sparse": 1.0})
    attention, certificate = shaped({"attention": 1.0})
    assert certificate.return_preserving
    doubled = sparse + attention
    assert float((optimal_policy(doubled) - optimal_policy(sparse)).abs().max()) > 0.05
    game = every_response()
    scores = tiny_reward_model().prefix_scores(game)[:, -1]
    assert not Certificate.empty(Shape()).including(doubled, scores, game).return_preserving
