"""Every parameter that a study searches reaches the inner run (the lesson of cleanrl's tuner, which lost one)."""

import pytest
import torch

from pipeline.trainers.ppo.settings import SEARCHED, PPOSettings
from search_spaces import make_space
from shaping import METHODS, Shape, Shaper
from shaping.advantages import generalized_advantages
from tests.support.models.tiny_models import mixed_rollouts, tiny_reward_model, tiny_tokenizer
from tests.support.models.tiny_task import tiny_trainer

MIXABLE = tuple(sorted(set(METHODS) - {"sparse"}))
RANGES = {"gae_lambda": (0.6, 1.0), "balance": (0.0, 1.0)}
SPACES = {
    "credit_mix": make_space("credit_mix", base=Shape(budget=32), methods=MIXABLE, **RANGES),
    "full": make_space("full", base=Shape(max_units=12), methods=("prefix", "shapley"), budget=(16, 64), **RANGES),
    "balance": make_space("balance", base=Shape(budget=32), methods=("prefix",), **RANGES),
}
MOVED = [(name, parameter.name) for name, space in SPACES.items() for parameter in space.parameters()]


def inside(space):
    """Return a point from which every parameter can move up by 0.1."""
    chosen = {"balance": 0.6, "gae_lambda": 0.8, "unit": "token", "budget": 16}
    return {parameter.name: chosen.get(parameter.name, 0.1) for parameter in space.parameters()}


def moved_up(value):
    return {"token": "span", 16: 48}.get(value) or value + 0.1


def token_rewards(shape):
    return Shaper(shape, tiny_reward_model(), tiny_tokenizer(), seed=1)(mixed_rollouts())


def advantages(shape):
    values = torch.randn(7, 18, generator=torch.Generator().manual_seed(0))
    mask = mixed_rollouts().response_mask
    return generalized_advantages(token_rewards(shape), values, mask, shape.gamma, shape.gae_lambda)[0]


@pytest.mark.parametrize(("name", "parameter"), MOVED)
def test_parameter_moved_alone_changes_the_inner_run(name, parameter):
    space = SPACES[name]
    start = inside(space)
    before, after = space.decode(start), space.decode({**start, parameter: moved_up(start[parameter])})
    moved = float((token_rewards(after) - token_rewards(before)).abs().max())
    if parameter == "gae_lambda":
        assert moved == 0
        assert float((advantages(after) - advantages(before)).abs().max()) > 1e-2
    else:
        assert moved > 1e-2


@pytest.mark.parametrize(
    ("method", "change"),
    [
        ("shapley", {"unit": "token"}),
        ("shapley", {"unit": "sentence"}),
        ("shapley", {"max_span": 2}),
        ("shapley", {"max_units": 2}),
        ("shapley", {"closure": "spread"}),
        ("attention", {"attention_layer": 0}),
        ("attention", {"attention_heads": "max"}),
        ("gradient", {"gradient_steps": 2}),
    ],
    ids=str,
)
def test_field_of_the_shape_moved_alone_changes_the_token_rewards(method, change):
    base = Shape(weights={method: 1.0}, budget=32)
    assert float((token_rewards(base.with_changes(**change)) - token_rewards(base)).abs().max()) > 1e-2


@pytest.mark.parametrize(
    "change", [{"budget": 64}, {"budget_tokens": 1_000}, {"estimator": "exact"}, {"estimator": "permutation"}], ids=str
)
def test_sampling_option_moved_alone_changes_the_rewards_of_a_response_of_many_units(change):
    base = Shape(weights={"shapley": 1.0}, unit="token", max_units=12, budget=32)
    assert float((token_rewards(base.with_changes(**change)) - token_rewards(base)).abs().max()) > 1e-2


def test_discount_changes_the_advantages():
    base = Shape(policy_preserving=False)
    assert float((advantages(base.with_changes(gamma=0.9)) - advantages(base)).abs().max()) > 1e-2


# Each setting of the trainer that may be searched, with another value than the tiny trainer's.
SETTINGS = {
    "critic": "network",
    "learning_rate": 2e-2,
    "lr_scheduler_type": "constant",
    "kl_coef": 0.5,
    "batch_size": 4,
    "num_ppo_epochs": 3,
    "num_mini_batches": 2,
    "cliprange": 0.001,
    "vf_coef": 5.0,
    "max_grad_norm": 0.01,
    "critic_warmup_steps": 1,
}


def trained(**settings):
    trainer = tiny_trainer(**settings)
    points = list(trainer.steps())
    weights = torch.cat([each.detach().flatten() for each in trainer.policy.model.parameters()])
    return points, weights


def test_every_setting_that_may_be_searched_is_moved_below():
    assert set(SETTINGS) == set(SEARCHED)


@pytest.mark.parametrize("name", SEARCHED)
def test_setting_of_the_trainer_moved_alone_trains_another_policy(name):
    assert getattr(PPOSettings(), name) != SETTINGS[name]
    (_, before), (_, after) = trained(), trained(**{name: SETTINGS[name]})
    assert float((after - before).abs().max()) > 1e-5
