"""The control of scale: a total that is not the score, priced against KL, and what is reported all the same."""

from __future__ import annotations

import pytest
import torch

from pipeline.config.load import parse_config
from shaping.errors import ConfigError
from shaping.shape import Shape
from tests.support.models.tiny_task import tiny_trainer

FREE = Shape(weights={"prefix": 1.0}, balance=0.5, policy_preserving=False)


def test_the_sum_paid_is_scaled_and_the_certificate_says_so() -> None:
    plain, doubled = (tiny_trainer(FREE, reward_scale=scale, steps=1) for scale in (1.0, 2.0))
    first, second = next(plain.steps()), next(doubled.steps())
    assert (first.reward, first.kl_nats, first.objective) == (second.reward, second.kl_nats, second.objective)
    assert plain.certificate.return_preserving and not doubled.certificate.return_preserving
    # Of a response whose score is R, R is missed: all of it where |R| is above 1.
    assert doubled.certificate.largest_error > 0.1


def test_a_scaled_reward_is_a_cheaper_kl() -> None:
    # Without a critic, advantages are whitened rewards: of both only the ratio is left.
    scaled = tiny_trainer(FREE, reward_scale=4.0, kl_coef=0.2, vf_coef=0.0)
    cheaper = tiny_trainer(FREE, kl_coef=0.05, vf_coef=0.0)
    dearer = tiny_trainer(FREE, kl_coef=0.2, vf_coef=0.0)
    for trainer in (scaled, cheaper, dearer):
        list(trainer.steps())
    found = [
        torch.cat([each.detach().flatten() for each in trainer.actor.policy.parameters()])
        for trainer in (scaled, cheaper, dearer)
    ]
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)
    assert float((found[0] - found[2]).abs().max()) > 1e-3


def test_a_study_that_preserves_the_policy_has_no_scale() -> None:
    values = {"name": "s", "space": {"methods": ["prefix"]}, "ppo": {"reward_scale": 2.0}}
    with pytest.raises(ConfigError, match=r"ppo.reward_scale = 2.0 changes the total"):
        parse_config(values, "c.yaml")
    assert parse_config({**values, "shape": {"policy_preserving": False}}, "c.yaml").ppo.reward_scale == 2.0


def test_coalitions_are_counted() -> None:
    shape = Shape(weights={"shapley": 1.0}, unit="token", max_units=2)
    trainer = tiny_trainer(shape, sampling={"response_tokens": 2})
    list(trainer.steps())
    assert trainer.credit_coalitions == 3 * 5 * 2**2
    resumed = tiny_trainer(shape, sampling={"response_tokens": 2})
    resumed.restore(trainer.checkpoint())
    assert resumed.credit_coalitions == trainer.credit_coalitions
