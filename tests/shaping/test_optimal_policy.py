"""Enumerates a language of 27 responses: where the reward falls does not change the best policy, its total does."""

from functools import cache
from itertools import combinations

import pytest
import torch

from shaping import METHODS, Certificate, Shape
from shaping.credit import estimator, owen
from shaping.shape import ABSENT, CLOSURES, ESTIMATORS, UNITS_WITHIN_TURNS
from tests.support.models.small_language import LENGTH, every_response, judge, reference_log_probs, shaped

KL_COEF = 0.5
MIXES = [
    *({name: 1.0} for name in METHODS),
    {name: 1 / len(METHODS) for name in METHODS},
]
BY_UNITS = sorted(name for name, method in METHODS.items() if method.by_units)


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


@cache
def sparse_rewards():
    return shaped({"sparse": 1.0})[0]


@pytest.mark.parametrize("balance", [1.0, 0.4])
@pytest.mark.parametrize("closure", CLOSURES)
@pytest.mark.parametrize("weights", MIXES, ids=lambda weights: "+".join(weights))
def test_optimal_policy_is_that_of_the_sparse_reward(weights, closure, balance):
    sparse = sparse_rewards()
    rewards, certificate = shaped(weights, closure=closure, balance=balance)
    torch.testing.assert_close(optimal_policy(rewards), optimal_policy(sparse), atol=1e-5, rtol=0)
    assert certificate.return_preserving
    # The test must be able to fail: the best policy is neither the reference nor one response alone.
    assert 0.05 < float(optimal_policy(sparse).max()) < 0.99
    if set(weights) != {"sparse"}:
        assert float((rewards - sparse).abs().max()) > 1e-2


@pytest.fixture
def _no_game_is_too_small_to_sample(monkeypatch):
    """Let three units be sampled, as nine are otherwise: all of the language's games are small."""
    for module in (estimator, owen):
        monkeypatch.setattr(module, "ALWAYS_EXACT_UNITS", 0)


@pytest.mark.usefixtures("_no_game_is_too_small_to_sample")
@pytest.mark.parametrize("closure", CLOSURES)
@pytest.mark.parametrize("how", ESTIMATORS)
@pytest.mark.parametrize("absent", ABSENT)
@pytest.mark.parametrize("unit", UNITS_WITHIN_TURNS)
@pytest.mark.parametrize("method", BY_UNITS)
def test_optimal_policy_is_the_same_for_every_unit_operator_and_estimator(method, unit, absent, how, closure):
    options = {"unit": unit, "max_span": 2, "absent": absent, "estimator": how, "closure": closure, "budget": 4}
    rewards, certificate = shaped({method: 1.0}, **options)
    torch.testing.assert_close(optimal_policy(rewards), optimal_policy(sparse_rewards()), atol=1e-5, rtol=0)
    assert certificate.return_preserving
    assert float((rewards - sparse_rewards()).abs().max()) > 1e-2


@pytest.mark.usefixtures("_no_game_is_too_small_to_sample")
@pytest.mark.parametrize("method", BY_UNITS)
@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("unit", UNITS_WITHIN_TURNS),
        ("absent", ABSENT),
        ("estimator", ("exact", "kernel", "permutation")),
        ("closure", CLOSURES),
    ],
)
def test_every_option_moves_the_reward_that_leaves_the_optimum_where_it_is(method, option, values):
    usual = {"unit": "token", "max_span": 2, "budget": 4}
    found = {value: shaped({method: 1.0}, **{**usual, option: value})[0] for value in values}
    # Only Shapley values are found in several ways; Owen values by fewer, local fits in one and a sample of its own.
    alike = option == "estimator" and method != "shapley"
    differences = [float((found[one] - found[other]).abs().max()) for one, other in combinations(values, 2)]
    assert max(differences) > 1e-2
    assert alike or min(differences) > 1e-2


@pytest.mark.parametrize("weights", [{"prefix": 1.0}, {"prefix": 0.3, "sparse": 0.7}])
def test_token_by_token_optimum_of_causal_rewards_is_that_of_the_sparse_reward(weights):
    sparse = sparse_rewards()
    rewards, certificate = shaped(weights)
    assert certificate.is_causal
    expected = optimal_policy(sparse)
    torch.testing.assert_close(optimal_policy_by_induction(sparse), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(optimal_policy_by_induction(rewards), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("absent", ABSENT)
@pytest.mark.parametrize("method", ["lime", "shapley", "prefix"])
def test_reward_without_closure_is_detected(method, absent, monkeypatch):
    monkeypatch.setattr("shaping.shaper.close", lambda credit, *_: credit)
    _, certificate = shaped({method: 1.0}, unit="token", absent=absent, budget=64)
    assert not certificate.return_preserving
    assert certificate.largest_error > 1e-2


@pytest.mark.parametrize("absent", ABSENT)
@pytest.mark.parametrize("unit", UNITS_WITHIN_TURNS)
def test_reward_without_closure_changes_the_optimal_policy(unit, absent, monkeypatch):
    sparse = sparse_rewards()
    monkeypatch.setattr("shaping.shaper.close", lambda credit, *_: credit)
    rewards, _ = shaped({"lime": 1.0}, unit=unit, absent=absent, budget=64)
    assert float((optimal_policy(rewards) - optimal_policy(sparse)).abs().max()) > 0.05


def test_dense_credit_on_top_of_the_full_score_changes_the_optimal_policy():
    # SCAR's public code adds both: a return of 2R, which halves the price of KL.
    sparse = sparse_rewards()
    attention, certificate = shaped({"attention": 1.0})
    assert certificate.return_preserving
    doubled = sparse + attention
    assert float((optimal_policy(doubled) - optimal_policy(sparse)).abs().max()) > 0.05
    game = every_response()
    scores = judge().prefix_scores(game)[:, -1]
    assert not Certificate.empty(Shape()).including(doubled, scores, game).return_preserving
