"""The exact policy gradient of an enumerable language: reward-to-go is unbiased under causal shapes, and only there."""

from itertools import product

import pytest
import torch
from torch.nn.functional import pad

from shaping import METHODS, Certificate, Shape
from shaping.shape import CLOSURES
from tests.support.models.small_language import ALPHABET, LANGUAGE, LENGTH, reference_log_probs, shaped
from tests.support.models.tiny_models import BOS, EOS, encode, make_rollouts

PREFIXES = {
    prefix: row for row, prefix in enumerate(p for size in range(LENGTH) for p in product(range(3), repeat=size))
}
# A language whose responses end at different places: its third token ends them, and so does the last place.
ENDING = [
    y
    for size in range(1, LENGTH + 1)
    for y in product(range(3), repeat=size)
    if 2 not in y[:-1] and (y[-1] == 2 or size == LENGTH)
]
CAUSAL_METHODS = sorted(name for name, method in METHODS.items() if method.causal)
MIXES = [*({name: 1.0} for name in CAUSAL_METHODS), {name: 1 / len(CAUSAL_METHODS) for name in CAUSAL_METHODS}]
SHAPES = [
    (weights, closure)
    for weights in MIXES
    for closure in CLOSURES
    if Certificate.empty(Shape(weights=weights, closure=closure)).is_causal
]
every_reading = pytest.mark.parametrize("eos", [None, EOS])
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


def chosen_log_probs(language):
    """Return logits of every state, ``13 x 3``, of a policy that is not the reference, and what it gives each token."""
    logits = torch.randn(len(PREFIXES), 3, generator=torch.Generator().manual_seed(7)).double().requires_grad_(True)
    table = logits.log_softmax(dim=1)
    rows = [torch.stack([table[PREFIXES[y[:place]], y[place]] for place in range(len(y))]) for y in language]
    return logits, torch.stack([pad(row, (0, LENGTH - len(row))) for row in rows])


def gradient(rewards, discard_past=True, language=LANGUAGE):
    """Return the exact policy gradient in the logits of every state, ``13 x 3``.

    ``sum_y pi(y) sum_t grad log pi(y_t | y_<t) G_t`` with ``G_t`` the reward from token ``t`` on, or all of it.
    """
    logits, chosen = chosen_log_probs(language)
    chance = chosen.detach().sum(dim=1).exp()
    assert float(chance.sum()) == pytest.approx(1)
    rewards = rewards.double()
    to_go = rewards.flip(1).cumsum(dim=1).flip(1) if discard_past else rewards.sum(dim=1, keepdim=True)
    (chance[:, None] * chosen * to_go).sum().backward()
    return logits.grad


def true_gradient(eos=None, language=LANGUAGE):
    """Return the gradient of the expected score by automatic differentiation alone: no estimator at all."""
    logits, chosen = chosen_log_probs(language)
    scores = rewards_of({"sparse": 1.0}, eos, language)[0].double().sum(dim=1)
    (chosen.sum(dim=1).exp() * scores).sum().backward()
    return logits.grad


def rewards_of(weights, eos=None, language=LANGUAGE, **changes):
    """Return token rewards of every response of a language, and the certificate."""
    if language is LANGUAGE:
        return shaped(weights, eos=eos, **changes)
    tokens = [*ALPHABET[:2], EOS]
    responses = [[tokens[token] for token in response] for response in language]
    return shaped(weights, make_rollouts([[BOS, *encode("a")]] * len(language), responses), eos, **changes)


def bias(found, expected):
    """Return ``|g - g'| / |g'|``."""
    return float((found - expected).norm() / expected.norm())


@every_reading
@pytest.mark.parametrize("language", [LANGUAGE, ENDING], ids=["one length", "ending"])
def test_reward_to_go_of_the_sparse_reward_is_the_gradient_of_the_expected_score(language, eos):
    found = gradient(rewards_of({"sparse": 1.0}, eos, language)[0], language=language)
    torch.testing.assert_close(found, true_gradient(eos, language), atol=1e-9, rtol=0)
    assert float(found.norm()) > 0.05


def test_every_causal_method_is_causal_and_only_a_residual_that_is_spread_is_not():
    assert CAUSAL_METHODS == ["prefix", "sparse"]
    spread = [weights for weights, closure in SHAPES if closure == "spread"]
    assert spread == [{"sparse": 1.0}]
    assert len(SHAPES) == 2 * len(MIXES) + len(spread)


@every_reading
@pytest.mark.parametrize("language", [LANGUAGE, ENDING], ids=["one length", "ending"])
@pytest.mark.parametrize("balance", [1.0, 0.4])
@pytest.mark.parametrize(("weights", "closure"), SHAPES, ids=str)
def test_gradient_under_a_causal_shape_is_the_sparse_ones(weights, closure, balance, language, eos):
    rewards, certificate = rewards_of(weights, eos, language, balance=balance, closure=closure)
    assert certificate.is_causal and certificate.return_preserving
    moved = float((rewards - rewards_of({"sparse": 1.0}, eos, language)[0]).abs().max())
    assert moved > 0.05 or set(weights) == {"sparse"}
    torch.testing.assert_close(gradient(rewards, language=language), true_gradient(eos, language), atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("closure", CLOSURES)
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
    cosine = float((found * expected).sum() / found.norm() / expected.norm())
    assert (bias(found, expected), cosine) == (
        pytest.approx(MEASURED[method][0], abs=5e-3),
        pytest.approx(MEASURED[method][1], abs=5e-3),
    )


@pytest.mark.parametrize(("eos", "measured"), [(None, 0.0156), (EOS, 0.0665)])
def test_causal_credit_that_is_spread_is_biased_where_responses_end_at_different_places(eos, measured):
    rewards, certificate = rewards_of({"prefix": 1.0}, eos, closure="spread")
    assert not certificate.is_causal
    # Of one length and one prompt the residual is one constant, and the gradient survives.
    torch.testing.assert_close(gradient(rewards), true_gradient(eos), atol=1e-6, rtol=0)
    rewards, _ = rewards_of({"prefix": 1.0}, eos, ENDING, closure="spread")
    found, expected = gradient(rewards, language=ENDING), true_gradient(eos, ENDING)
    assert bias(found, expected) == pytest.approx(measured, abs=2e-3)


def test_reference_of_the_language_is_a_policy():
    assert float(reference_log_probs().sum(dim=1).exp().sum()) == pytest.approx(1, abs=1e-6)
