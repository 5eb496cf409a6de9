import logging

import pytest
import torch

from shaping import METHODS, CausalRewardModel, ConfigError, Shape
from shaping.credit.estimator import exact_tokens
from shaping.variants import Variants
from tests.support.games import by_subsets
from tests.support.models.tiny_models import (
    BOS,
    EOS,
    GameRewardModel,
    make_rollouts,
    random_game,
    scored_batch,
    tiny_classifier,
)

every_sampler = pytest.mark.parametrize("method", ["shapley", "kernel_shap", "lime"])
# Long enough that no layout is cut: a cut repeats the prompt and a path.
ONE_PASS = 2**20


def causal(**options):
    return CausalRewardModel(tiny_classifier(), max_tokens_per_forward=ONE_PASS, **options)


def distinct_tokens(count, first=50):
    return list(range(first, first + count))


def batch_of(responses, reward_model=None, unit="token", seed=0, **options):
    """Return responses below prompts of their own, two tokens each: nothing is shared between responses."""
    rollouts = make_rollouts([[BOS, 200 + row] for row in range(len(responses))], responses)
    return scored_batch(reward_model or causal(), rollouts, unit, seed=seed, **options)


def play(method, responses, reward_model=None, **options):
    return METHODS[method].credit(batch_of(responses, reward_model, **options))


class TokenCounter:
    """A causal reward model that shares no prefix and notes the response tokens of each response's rows."""

    name, abilities = "counter", frozenset()

    def __init__(self, eos_token_id=None):
        self._inner, self._eos = causal(eos_token_id=eos_token_id, share_prefixes=False), eos_token_id
        self.tokens, self.added_tokens = torch.zeros(0), int(eos_token_id is not None)

    def score(self, variants: Variants):
        counts = variants.keep.sum(dim=1) + (self._eos is not None)
        self.tokens = torch.zeros(len(variants.rollouts)).index_add_(0, variants.owner, counts.float())
        scored = self._inner.score(variants)
        assert scored.forwarded_tokens == int(self.tokens.sum()) + int(variants.rollouts.prompt_tokens.sum())
        return scored


def forwarded(method, responses, eos_token_id=None, **options):
    """Return the response tokens that each response's coalitions forward when nothing is shared."""
    counter = TokenCounter(eos_token_id)
    play(method, responses, counter, **options)
    return counter.tokens


@pytest.mark.parametrize("players", [1, 2, 5, 8])
@pytest.mark.parametrize(
    "options",
    [
        {"budget": 1},
        {"budget": 64},
        {"budget": 2**20},
        {"budget_tokens": 1},
        {"budget": 1, "estimator": "kernel"},
        {"budget": 1, "estimator": "permutation"},
        {"budget": 1, "estimator": "exact", "max_units": 12},
    ],
)
@every_sampler
def test_up_to_eight_units_are_exact_whatever_the_budget(method, options, players):
    values = random_game(players, seed=players)
    credit = METHODS[method].credit(GameRewardModel(values).batch(**options))
    assert credit.coalitions == 2**players
    assert credit.standard_error is None
    if method != "lime":
        torch.testing.assert_close(credit.values[0].double(), by_subsets(values), atol=2e-5, rtol=0)


@pytest.mark.parametrize("players", [9, 10, 12])
@every_sampler
def test_up_to_twelve_units_are_exact_where_the_budget_holds_all_coalitions(method, players):
    game = GameRewardModel(random_game(players, seed=players))
    assert METHODS[method].credit(game.batch(2**players)).coalitions == 2**players
    assert METHODS[method].plan(game.batch(2**players))[0].complete
    assert not METHODS[method].plan(game.batch(2**players - 1))[0].complete
    asked = METHODS[method].credit(game.batch(1, estimator="exact", max_units=12))
    assert asked.coalitions == 2**players
    assert asked.standard_error is None


@pytest.mark.parametrize("players", [9, 10, 11])
@pytest.mark.parametrize("method", ["shapley", "kernel_shap"])
def test_exact_values_on_request_equal_the_subset_formula(method, players):
    values = random_game(players, seed=players)
    credit = METHODS[method].credit(GameRewardModel(values).batch(1, estimator="exact", max_units=12))
    torch.testing.assert_close(credit.values[0].double(), by_subsets(values), atol=2e-5, rtol=0)


@every_sampler
def test_more_than_twelve_units_are_sampled_by_default(method):
    assert METHODS[method].credit(GameRewardModel(random_game(13, seed=1)).batch(8190)).coalitions <= 8190


@pytest.mark.parametrize("players", [9, 12, 13])
def test_estimator_decides_how_larger_games_are_sampled(players):
    game, budget = GameRewardModel(random_game(players, seed=1)), 2 * (players + 1) * 3
    by_kernel = METHODS["shapley"].plan(game.batch(budget, estimator="kernel"))[0].members[0]
    by_default = METHODS["shapley"].plan(game.batch(budget))[0].members[0]
    by_orders = METHODS["shapley"].plan(game.batch(budget, estimator="permutation"))[0].members[0]
    # The regression plays complements side by side, an order one player after another.
    assert torch.equal(by_kernel[2::2], ~by_kernel[3::2])
    assert torch.equal(by_kernel, by_default)
    assert by_orders.sum(dim=1).tolist() == list(range(players + 1)) * 6


@pytest.mark.parametrize(
    "options",
    [
        {"estimator": "permutation", "budget": 1024},
        {"estimator": "permutation", "budget_tokens": 2000},
        {"estimator": "kernel", "budget_tokens": 2000},
    ],
)
def test_estimator_that_samples_does_so_although_the_budget_would_do_for_all(options):
    # All coalitions of ten tokens are 1024, and 1023 tokens.
    assert play("shapley", [distinct_tokens(10)], **{**options, "estimator": "auto"}).standard_error is None
    credit = play("shapley", [distinct_tokens(10)], **options)
    assert credit.standard_error is not None
    assert credit.coalitions < 1024


def test_exact_estimator_is_refused_where_units_are_too_many():
    with pytest.raises(ConfigError, match=r"max_units = 13 would score 2\^13") as error:
        Shape(estimator="exact", max_units=13)
    assert "at most 12" in error.value.hint
    assert Shape(estimator="exact", max_units=12).estimator == "exact"


@pytest.mark.parametrize("count", [1, 4, 9, 11])
@pytest.mark.parametrize("ending", [[], [EOS]])
def test_token_bound_of_distinct_tokens_is_what_the_engine_forwards(count, ending):
    batch = batch_of([[*distinct_tokens(count), *ending]], budget=2**20)
    bound = exact_tokens(batch, torch.arange(1))
    assert METHODS["shapley"].credit(batch).forwarded_tokens - 2 == float(bound)
    assert float(bound) == 2**count - 1 + len(ending) * 2**count


@pytest.mark.parametrize(
    "response",
    [[50, 50, 50, 50, 50], [50, 51, 50, 51, 50, 51, 52], [50, EOS, 51, 52, EOS], [50, 51, 52, 50, 51, 52, 50, 51, 52]],
)
@pytest.mark.parametrize(("unit", "max_span"), [("token", 1), ("span", 2), ("span", 4)])
def test_token_bound_is_never_exceeded(response, unit, max_span):
    batch = batch_of([response], unit=unit, budget=2**20, max_span=max_span)
    bound = exact_tokens(batch, torch.arange(1))
    assert METHODS["shapley"].credit(batch).forwarded_tokens - 2 <= float(bound)


@pytest.mark.parametrize("method", ["shapley", "kernel_shap"])
def test_ten_units_are_exact_from_the_token_budget_on_that_holds_them(method):
    # Ten distinct tokens have 2^10 - 1 nodes in their tree.
    assert play(method, [distinct_tokens(10)], budget_tokens=1023).standard_error is None
    assert play(method, [distinct_tokens(10)], budget_tokens=1022).standard_error is not None


def test_longest_response_decides_whether_all_coalitions_of_as_many_units_fit():
    responses = [distinct_tokens(10), distinct_tokens(24)]
    bound = exact_tokens(batch_of(responses, max_units=10), torch.arange(2))
    assert bound[0] == 1023
    assert bound[1] > 1500
    assert play("shapley", responses, budget_tokens=1500, max_units=10).standard_error is not None
    assert play("shapley", responses, budget_tokens=int(bound[1]), max_units=10).standard_error is None


@pytest.mark.parametrize("budget_tokens", [60, 300, 1000])
@pytest.mark.parametrize("ending", [[], [EOS]])
@pytest.mark.parametrize("method", ["shapley", "kernel_shap"])
def test_token_budget_bounds_what_each_response_forwards(method, ending, budget_tokens):
    responses = [[*distinct_tokens(count), *ending] for count in (12, 13, 16, 20)]
    for seed in range(3):
        tokens = forwarded(method, responses, seed=seed, budget_tokens=budget_tokens)
        assert float(tokens.max()) <= budget_tokens
        # Not bounded by doing nothing: a pair more would not fit the budget, but for the shortest of its group.
        assert float(tokens.min()) > budget_tokens - 2 * (20 + 2 * len(ending))


@pytest.mark.parametrize("method", ["shapley", "kernel_shap"])
def test_token_budget_bounds_the_longest_of_responses_with_as_many_units(method):
    responses = [distinct_tokens(count) for count in (10, 15, 24)]
    tokens = forwarded(method, responses, budget_tokens=300, max_units=10)
    # Twelve pairs of complements, of 24 tokens each for the longest.
    assert tokens.tolist() == [12 * 10, 12 * 15, 12 * 24]


@pytest.mark.parametrize("budget_tokens", [500, 1500])
@pytest.mark.parametrize(("method", "options"), [("shapley", {"estimator": "permutation"}), ("owen", {})])
def test_token_budget_bounds_orders_where_one_and_its_reverse_fit_it(method, options, budget_tokens):
    responses = [distinct_tokens(count) for count in (13, 16, 20)]
    assert float(forwarded(method, responses, budget_tokens=budget_tokens, **options).max()) <= budget_tokens


def test_token_budget_takes_the_place_of_the_budget():
    few = play("shapley", [distinct_tokens(13)], budget=4000, budget_tokens=130)
    # A pair of complements forwards each of the thirteen tokens once.
    assert few.coalitions == 2 * 130 // 13


@pytest.mark.parametrize("method", ["shapley", "kernel_shap", "lime", "owen"])
def test_token_budget_too_small_for_anything_still_gives_finite_credit(method):
    credit = play(method, [distinct_tokens(20)], budget_tokens=1)
    assert bool(torch.isfinite(credit.values).all())
    assert credit.coalitions <= 2 * 21


@pytest.mark.parametrize("budget_tokens", [200, 400])
def test_token_budget_bounds_the_removals_of_lime(budget_tokens):
    most = [
        float(forwarded("lime", [distinct_tokens(20)], seed=seed, budget_tokens=budget_tokens).max())
        for seed in range(8)
    ]
    assert max(most) <= budget_tokens


def test_token_budget_bounds_exact_solutions_of_a_reward_model_that_shares_nothing():
    assert float(forwarded("shapley", [distinct_tokens(10)], budget_tokens=2000).max()) <= 2000


def test_token_budget_bounds_rows_that_the_reward_model_ends_itself():
    assert float(forwarded("shapley", [distinct_tokens(16)], budget_tokens=320, eos_token_id=EOS).max()) <= 320


@every_sampler
@pytest.mark.parametrize("budget", [1, 2, 3])
def test_least_budgets_are_defined_for_twenty_units(method, budget):
    credit = play(method, [distinct_tokens(20)], budget=budget)
    assert bool(torch.isfinite(credit.values).all())
    # None, all and one more, or one pair more.
    assert credit.coalitions <= 4
    assert float(credit.values.abs().max()) > 1e-3


@pytest.mark.parametrize("method", ["shapley", "kernel_shap", "lime", "owen"])
@pytest.mark.parametrize("players", [3, 10, 14])
@pytest.mark.parametrize("estimator", ["auto", "permutation"])
def test_game_of_equal_values_gives_nothing(method, players, estimator):
    credit = METHODS[method].credit(GameRewardModel(torch.full((2**players,), 3.0)).batch(50, estimator=estimator))
    torch.testing.assert_close(credit.values, torch.zeros(1, players), atol=1e-6, rtol=0)
    if credit.standard_error is not None:
        torch.testing.assert_close(credit.standard_error, torch.zeros(1, players), atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", ["shapley", "kernel_shap", "lime", "owen"])
def test_one_unit_takes_the_whole_difference(method):
    credit = METHODS[method].credit(GameRewardModel(torch.tensor([0.25, 2.0])).batch(1))
    assert float(credit.values[0, 0]) == pytest.approx(1.75)
    assert credit.standard_error is None


def test_small_sample_is_told_of_once(caplog):
    game = GameRewardModel(random_game(14, seed=1))
    with caplog.at_level(logging.WARNING, "shaping"):
        for seed in range(3):
            METHODS["kernel_shap"].credit(game.batch(21, seed))
        METHODS["kernel_shap"].credit(game.batch(28))
        METHODS["kernel_shap"].credit(GameRewardModel(random_game(8, seed=1)).batch(9))
    told = [record.getMessage() for record in caplog.records if record.name.startswith("shaping.credit")]
    assert len(told) == 1
    assert "21 coalitions is small for 14 units" in told[0]
    assert "at least 28" in told[0]
