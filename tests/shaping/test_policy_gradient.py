"""The exact policy gradient of an enumerable language: reward-to-go is unbiased under causal shapes, and only there."""

from itertools import product

import pytest
import torch

from shaping import METHODS
from tests.shaping.test_optimal_policy import LANGUAGE, LENGTH, reference_log_probs, shaped

PREFIXES = {
    prefix: row for row, prefix in enumerate(p for size in range(LENGTH) for p in product(range(3), repeat=size))
}
STATES = torch.tensor([[PREFIXES[response[:place]] for place in range(LENGTH)] for response in LANGUAGE])
TOKENS = torch.tensor(LANGUAGE)
CAUSAL = [{"prefix": 1.0}, {"prefix": 0.3, "sparse": 0.7}]
# In this one language: |g - g_sparse| / |g_sparse| and the cosine between them. Rewards that a token has already
# received drop out of its reward-to-go, and under these methods they still depend on what it does next.
MEASURED = {
    "attention": (0.431, 0.902),
    "gradient": (0.963, 0.703),
    "kernel_shap": (0.617, 0.810),
    "lime": (2.429, 0.211),
    "owen": (0.617, 0.810),
    "random": (0.547, 0.838),
    "shapley": (0.617, 0.810),
    "uniform": (0.415, 0.921),
}


def gradient(rewards, discard_past=True):
    """Return the exact gradient in the logits of every state, ``13 x 3``, of a policy that is not the reference.

    ``sum_y pi(y) sum_t grad log pi(y_t | y_<t) G_t`` with ``G_t`` the reward from token ``t`` on, or all of it.
    """
    logits = torch.randn(len(PREFIXES), 3, generator=torch.Generator().manual_seed(7)).double().requires_grad_(True)
    chosen = logits.log_softmax(dim=1)[STATES, TOKENS]
    chance = chosen.detach().sum(dim=1).exp()
    assert float(chance.sum()) == pytest.approx(1)
    rewards = rewards.double()
    to_go = rewards.flip(1).cumsum(dim=1).flip(1) if discard_past else rewards.sum(dim=1, keepdim=True)
    (chance[:, None] * chosen * to_go).sum().backward()
    return logits.grad


def true_gradient():
    """Return the gradient of the expected score by automatic differentiation alone: no estimator at all."""
    logits = torch.randn(len(PREFIXES), 3, generator=torch.Generator().manual_seed(7)).double().requires_grad_(True)
    chance = logits.log_softmax(dim=1)[STATES, TOKENS].sum(dim=1).exp()
    (chance * shaped({"sparse": 1.0})[0].double().sum(dim=1)).sum().backward()
    return logits.grad


def test_reward_to_go_of_the_sparse_reward_is_the_gradient_of_the_expected_score():
    torch.testing.assert_close(gradient(shaped({"sparse": 1.0})[0]), true_gradient(), atol=1e-9, rtol=0)
    assert float(true_gradient().norm()) > 0.05


@pytest.mark.parametrize("balance", [1.0, 0.4])
@pytest.mark.parametrize("weights", CAUSAL, ids=str)
def test_gradient_under_a_causal_shape_is_the_sparse_ones(weights, balance):
    rewards, certificate = shaped(weights, balance=balance)
    assert certificate.is_causal and certificate.return_preserving
    assert float((rewards - shaped({"sparse": 1.0})[0]).abs().max()) > 0.05
    torch.testing.assert_close(gradient(rewards), true_gradient(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("closure", ["last", "spread"])
def test_whole_return_gives_the_sparse_gradient_whatever_the_shape(method, closure):
    rewards, _ = shaped({method: 1.0}, closure=closure)
    torch.testing.assert_close(gradient(rewards, discard_past=False), true_gradient(), atol=1e-5, rtol=0)


def test_every_method_that_is_not_causal_is_measured():
    assert set(MEASURED) == {name for name, method in METHODS.items() if not method.causal}


@pytest.mark.parametrize("method", sorted(MEASURED))
def test_reward_to_go_under_a_shape_that_is_not_causal_is_biased_by_as_much_as_written_down(method):
    rewards, certificate = shaped({method: 1.0}, unit="token")
    assert not certificate.is_causal
    found, expected = gradient(rewards), true_gradient()
    bias = float((found - expected).norm() / expected.norm())
    cosine = float((found * expected).sum() / found.norm() / expected.norm())
    assert (bias, cosine) == (
        pytest.approx(MEASURED[method][0], abs=5e-3),
        pytest.approx(MEASURED[method][1], abs=5e-3),
    )


def test_causal_credit_that_is_spread_is_no_longer_causal():
    rewards, certificate = shaped({"prefix": 1.0}, closure="spread")
    assert not certificate.is_causal
    # All responses have the same length and prompt here: the residual is one constant, and the gradient survives.
    torch.testing.assert_close(gradient(rewards), true_gradient(), atol=1e-6, rtol=0)


def test_reference_of_the_language_is_a_policy():
    assert float(reference_log_probs().sum(dim=1).exp().sum()) == pytest.approx(1, abs=1e-6)
