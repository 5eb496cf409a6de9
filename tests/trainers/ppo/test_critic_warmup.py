"""A critic that learns alone before the policy does."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from pipeline.trainers.ppo.settings import PPOSettings
from pipeline.trainers.ppo.trainer import PPOTrainer
from shaping.shape import Shape
from tests.support.models.tiny_task import tiny_trainer


def weights(trainer: PPOTrainer, part: str) -> dict[str, torch.Tensor]:
    return {name: each.clone() for name, each in getattr(trainer.actor, part).state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(weight, other[name]) for name, weight in one.items())


def shaped(gae_lambda: float, credit: str = "prefix") -> Shape:
    return Shape(weights={credit: 1.0}, gae_lambda=gae_lambda)


@pytest.mark.parametrize("critic", ["value_head", "network", "reward_model"])
def test_policy_is_the_reference_until_the_critic_is_warm(critic: str) -> None:
    trainer = tiny_trainer(steps=6, critic_warmup_steps=4, critic=critic)
    policy, before = weights(trainer, "policy"), weights(trainer, "critic")
    running = trainer.steps()
    warm = [next(running) for _ in range(4)]
    assert same(weights(trainer, "policy"), policy) and not same(weights(trainer, "critic"), before)
    assert all(abs(point.kl_nats) < 1e-4 for point in warm)
    next(running)
    assert not same(weights(trainer, "policy"), policy)
    # The critic's rewards are in the certificate as well.
    assert trainer.certificate.responses == 5 * 5


def test_a_warm_critic_knows_more_when_the_policy_begins() -> None:
    options: dict[str, Any] = {"critic": "network", "batch_size": 16}
    warming = tiny_trainer(shaped(1.0), steps=41, critic_warmup_steps=40, **options)
    explained = [point.explained_variance for point in warming.steps()]
    # The first look is at the same critic and the same responses as without.
    assert explained[0] == next(tiny_trainer(shaped(1.0), **options).steps()).explained_variance
    assert fmean(explained[-10:]) > fmean(explained[:3]) + 0.1


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_critic_is_taught_whole_returns_whatever_lambda_is(gamma: float) -> None:
    found = {}
    for gae_lambda in (0.5, 1.0):
        shape = shaped(gae_lambda).with_changes(gamma=gamma, policy_preserving=False)
        trainer = tiny_trainer(shape, steps=4, critic_warmup_steps=3, critic="network")
        running = trainer.steps()
        points = [next(running) for _ in range(3)]
        found[gae_lambda] = weights(trainer, "critic"), points
        next(running)
        found[gae_lambda] += (weights(trainer, "policy"),)
    assert same(found[0.5][0], found[1.0][0]) and found[0.5][1] == found[1.0][1]
    # After it lambda is the shape's again.
    assert not same(found[0.5][2], found[1.0][2])


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_run_that_stops_in_between_ends_as_if_it_had_not(stop: int) -> None:
    options: dict[str, Any] = {"steps": 6, "critic_warmup_steps": 3, "critic": "network", "num_mini_batches": 2}
    whole, first, second = (tiny_trainer(shaped(0.7), **options) for _ in range(3))
    list(whole.steps())
    running = first.steps()
    for _ in range(stop):
        next(running)
    second.restore(first.checkpoint(step=stop))
    list(second.steps(start=stop))
    assert same(weights(whole, "policy"), weights(second, "policy"))
    assert same(weights(whole, "critic"), weights(second, "critic"))


def test_an_adapter_is_left_alone_as_well() -> None:
    trainer = tiny_trainer(lora={"rank": 2}, steps=3, critic_warmup_steps=2)
    start, learning = weights(trainer, "policy"), [each.requires_grad for each in trainer.actor.policy.parameters()]
    running = trainer.steps()
    next(running), next(running)
    assert same(weights(trainer, "policy"), start)
    assert [each.requires_grad for each in trainer.actor.policy.parameters()] == learning
    next(running)
    assert not same(weights(trainer, "policy"), start)


def test_settings_from_before_it_existed_are_the_same_settings() -> None:
    assert "critic_warmup_steps" not in PPOSettings().model_dump(mode="json")
    kept = PPOSettings(critic_warmup_steps=3).model_dump(mode="json")
    assert kept["critic_warmup_steps"] == 3 and PPOSettings(**kept).critic_warmup_steps == 3
    assert "critic_warmup_steps" in PPOSettings.model_json_schema()["properties"]


@pytest.mark.parametrize("steps", [20, 21])
def test_policy_must_learn_at_all(steps: int) -> None:
    with pytest.raises(ValidationError, match=f"critic_warmup_steps = {steps} leaves none of the 20 steps"):
        PPOSettings(steps=20, critic_warmup_steps=steps)
