import math
from dataclasses import replace

import pytest
import torch

from shaping import METHODS, Certificate, ConfigError, Shape, ShapeError, Shaper
from shaping.certificate import TOLERANCE
from shaping.closure import close
from tests.support.models.tiny_models import (
    GameRewardModel,
    mixed_rollouts,
    random_game,
    scored_batch,
    tiny_reward_model,
    tiny_tokenizer,
)


class OnlyScores:
    """A reward model that scores variants and can do nothing else."""

    name, abilities, added_tokens, layers = "OnlyScores", frozenset(), 0, 0

    def __init__(self, model):
        self._model = model

    def score(self, variants):
        return self._model.score(variants)

    def prefix_scores(self, rollouts):
        raise NotImplementedError("this model is not among those that can score prefixes")

    def response_attention(self, rollouts, layer=-1, heads="mean"):
        raise NotImplementedError("this model has no attention")

    def integrated_gradients(self, rollouts, absent, steps):
        raise NotImplementedError("this model has no gradient")


def test_token_rewards_are_the_weighted_sum_of_closed_credits():
    rollouts, model = mixed_rollouts(), tiny_reward_model()
    shape = Shape(weights={"prefix": 0.5, "shapley": 0.3, "sparse": 0.2}, balance=0.6, budget=4096, closure="spread")
    shaped = Shaper(shape, model, tiny_tokenizer()).shaped(rollouts)
    batch = scored_batch(model, rollouts, "span", 4096, max_units=shape.max_units)
    closed = {
        name: close(METHODS[name].credit(batch).values, batch.scores, rollouts, "spread")
        for name in ("prefix", "shapley", "sparse")
    }
    expected = (
        0.6 * (0.5 * closed["prefix"] + 0.3 * closed["shapley"] + 0.2 * closed["sparse"]) + 0.4 * closed["sparse"]
    )
    torch.testing.assert_close(shaped.token_rewards, expected, atol=1e-5, rtol=0)
    assert set(shaped.credits) == {"prefix", "shapley", "sparse"}
    assert shaped.forwarded_tokens == shaped.credits["shapley"].forwarded_tokens > 0


def test_methods_without_weight_are_not_computed():
    shape = Shape(weights={"prefix": 1.0, "shapley": 0.0}, balance=1.0)
    assert set(Shaper(shape, tiny_reward_model(), tiny_tokenizer()).shaped(mixed_rollouts()).credits) == {"prefix"}


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.needs])
def test_method_that_the_reward_model_cannot_serve_is_refused(name):
    model = OnlyScores(tiny_reward_model())
    with pytest.raises(ConfigError, match=rf"weights\.{name}: the reward model OnlyScores gives no {name}"):
        Shaper(Shape(weights={name: 0.5, "sparse": 0.5}), model, tiny_tokenizer())
    Shaper(Shape(weights={name: 0.0, "sparse": 1.0}), model, tiny_tokenizer())


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.needs])
def test_reward_model_that_only_scores_serves_every_other_method(name):
    rollouts, shape = mixed_rollouts(), Shape(weights={name: 1.0}, budget=4096)
    limited = Shaper(shape, OnlyScores(tiny_reward_model()), tiny_tokenizer()).shaped(rollouts)
    able = Shaper(shape, tiny_reward_model(), tiny_tokenizer()).shaped(rollouts)
    torch.testing.assert_close(limited.token_rewards, able.token_rewards, atol=1e-4, rtol=0)


def test_adjustment_needs_one_value_a_response():
    shaper = Shaper(Shape(), tiny_reward_model(), tiny_tokenizer())
    with pytest.raises(ShapeError, match="one value a response"):
        shaper.shaped(mixed_rollouts(), adjustment=torch.zeros(3))


def test_adjustment_falls_where_the_method_puts_it():
    rollouts, adjustment = mixed_rollouts(), torch.full((7,), 2.0)
    for closure, share in (("last", 0.0), ("spread", 2.0 / 18)):
        shaper = Shaper(Shape(weights={"prefix": 1.0}, closure=closure), tiny_reward_model(), tiny_tokenizer())
        moved = shaper.shaped(rollouts, adjustment=adjustment).token_rewards - shaper(rollouts)
        assert moved[3, :-1].tolist() == pytest.approx([share] * 17, abs=1e-5)
        assert float(moved[3].sum()) == pytest.approx(2.0, abs=1e-5)


def test_under_first_an_adjustment_stays_on_the_last_token_and_the_prompts_score_goes_before_all_choices():
    rollouts, adjustment = mixed_rollouts(), torch.full((7,), 2.0)
    reward_model = tiny_reward_model()
    shaper = Shaper(Shape(weights={"prefix": 1.0}, closure="first"), reward_model, tiny_tokenizer())
    own = shaper(rollouts)
    moved = shaper.shaped(rollouts, adjustment=adjustment).token_rewards - own
    assert moved[3].tolist() == pytest.approx([0.0] * 17 + [2.0], abs=1e-5)
    # As if it were a trainer's own score.
    given = shaper(rollouts, shaper.scores(rollouts) + adjustment) - own
    torch.testing.assert_close(given, moved)
    prefixes = reward_model.prefix_scores(rollouts)
    torch.testing.assert_close(own[3, 0], prefixes[3, 1])
    torch.testing.assert_close(own[3, 1:], prefixes[3, 2:] - prefixes[3, 1:-1], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "passes"), [("uniform", 0), ("sparse", 0), ("lime", 1)])
def test_own_scores_are_asked_for_where_a_residual_has_to_be_told_from_what_was_added(name, passes, monkeypatch):
    rollouts, asked = mixed_rollouts(), []
    shaper = Shaper(Shape(weights={name: 1.0}, closure="first"), OnlyScores(tiny_reward_model()), tiny_tokenizer())
    monkeypatch.setattr(shaper, "scores", lambda given: asked.append(given) or torch.zeros(len(given)))
    rewards = shaper(rollouts, torch.ones(len(rollouts)))
    assert len(asked) == passes
    written = rollouts.response_tokens > 0
    torch.testing.assert_close(rewards.sum(dim=1)[written], torch.ones(int(written.sum())), atol=1e-5, rtol=0)


class Raised(OnlyScores):
    """Gives every text more than another reward model does."""

    def __init__(self, model, by):
        super().__init__(model)
        self._by = by

    def score(self, variants):
        scored = self._model.score(variants)
        return replace(scored, values=scored.values + self._by)


@pytest.mark.parametrize("name", ["prefix", "shapley", "owen", "kernel_shap"])
@pytest.mark.parametrize("unit", ["token", "span"])
def test_what_every_text_has_is_no_price_for_ending_under_first(name, unit):
    rollouts, model = mixed_rollouts(), tiny_reward_model()
    found = {}
    for closure in ("first", "last"):
        shape = Shape(weights={name: 1.0}, closure=closure, unit=unit, max_units=6, budget=4096)
        one, other = (Shaper(shape, Raised(model, by), tiny_tokenizer())(rollouts) for by in (0.0, 3.0))
        found[closure] = other - one
    places = rollouts.response_mask.nonzero()
    first = {row: column for row, column in reversed(places.tolist())}
    last = dict(places.tolist())
    for closure, place in (("first", first), ("last", last)):
        expected = torch.zeros_like(found[closure])
        for row, column in place.items():
            expected[row, column] = 3.0
        torch.testing.assert_close(found[closure], expected, atol=1e-4, rtol=0)


def certificate_of(error: float, gamma: float = 1.0) -> Certificate:
    game = GameRewardModel(random_game(3, seed=0))
    rollouts, scores = game.rollouts(2), torch.tensor([4.0, 0.5])
    rewards = torch.tensor([[1.0, 1.0, 2.0], [0.0, 0.5, error]])
    shape = Shape(weights={"uniform": 1.0}, gamma=gamma, policy_preserving=gamma == 1)
    return Certificate.empty(shape).including(rewards, scores, rollouts)


def test_certificate_measures_the_worst_row():
    certificate = certificate_of(0.25)
    assert certificate.largest_error == pytest.approx(0.25)
    assert certificate.responses == 2
    assert not certificate.return_preserving


def test_certificate_error_is_relative_to_large_scores():
    game = GameRewardModel(random_game(1, seed=0))
    seen = Certificate.empty(Shape()).including(torch.tensor([[110.0]]), torch.tensor([100.0]), game.rollouts())
    assert seen.largest_error == pytest.approx(0.1)


@pytest.mark.parametrize("error", [math.nan, math.inf, 2 * TOLERANCE])
def test_certificate_refuses(error):
    assert not certificate_of(error).return_preserving


def test_certificate_refuses_a_discount():
    assert certificate_of(0.0).return_preserving
    assert not certificate_of(0.0, gamma=0.99).return_preserving


def test_certificate_keeps_the_worst_of_all_batches_and_runs():
    good, bad = certificate_of(0.0), certificate_of(0.5)
    assert good.merged(bad).largest_error == bad.merged(good).largest_error == pytest.approx(0.5)
    assert good.merged(bad).responses == 4
    game = GameRewardModel(random_game(3, seed=0))
    later = bad.including(torch.tensor([[1.0, 1.0, 2.0]]), torch.tensor([4.0]), game.rollouts())
    assert (later.largest_error, later.responses) == (pytest.approx(0.5), 3)


def test_certificate_names_the_causal_methods_that_received_reward():
    certificate = Certificate.empty(Shape(weights={"prefix": 0.5, "uniform": 0.5, "lime": 0.0}, balance=0.5))
    assert certificate.causal == {"prefix": True, "uniform": False, "sparse": True}
    assert not certificate.is_causal
    assert Certificate.empty(Shape(weights={"prefix": 1.0})).is_causal


def test_certificate_survives_its_dict():
    certificate = certificate_of(0.25)
    assert Certificate.from_dict(certificate.to_dict()) == certificate
    assert certificate.to_dict()["return_preserving"] is False
