import logging

import pytest
import torch

from pipeline.trainers.ppo.actor import Actor
from pipeline.trainers.ppo.critics import ValueHead
from pipeline.trainers.ppo.settings import PPOSettings
from pipeline.trainers.ppo.update import Batch, PolicyUpdate, rate_factor
from shaping.errors import TrialFailed, is_out_of_memory
from tests.support.models.tiny_models import BOS, encode, make_rollouts, tiny_policy

TEXTS = ["good", "bad. the end", "a great cast! the end was bad.", "why?", "dull film, good music"]


def actor_and_batch():
    torch.manual_seed(0)
    rollouts = make_rollouts([[BOS, 9, 11]] * len(TEXTS), [encode(text) for text in TEXTS])
    actor = Actor(tiny_policy(), ValueHead(16), None)
    with torch.no_grad():
        old = actor(rollouts)
    noise = torch.randn(old.values.shape, generator=torch.Generator().manual_seed(1)) * rollouts.response_mask
    return actor, Batch(rollouts, old, noise, 2 * noise)


def settings(**changes):
    return PPOSettings(**{"steps": 10, "batch_size": 5, "num_ppo_epochs": 2, "learning_rate": 1e-2, **changes})


def trained(**changes):
    actor, batch = actor_and_batch()
    update = PolicyUpdate(actor, settings(**changes))
    losses = update(0, batch, update.orders(len(TEXTS), torch.Generator().manual_seed(3)))
    return losses, {name: weight.clone() for name, weight in actor.state_dict().items()}


@pytest.mark.parametrize("num_mini_batches", [1, 2])
@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_cutting_into_micro_batches_of_like_length_changes_nothing(micro_batch_size, num_mini_batches):
    losses, weights = trained(num_mini_batches=num_mini_batches)
    cut_losses, cut_weights = trained(num_mini_batches=num_mini_batches, micro_batch_size=micro_batch_size)
    for one, other in zip(losses, cut_losses, strict=True):
        assert one.policy == pytest.approx(other.policy, abs=1e-5)
        assert one.value == pytest.approx(other.value, abs=1e-5)
        assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-3)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, cut_weights[name], atol=2e-4, rtol=0)


def test_rows_are_cut_to_their_longest_response():
    _, batch = actor_and_batch()
    part = batch.select(torch.tensor([0, 3]))
    width = int(batch.rollouts.response_tokens[torch.tensor([0, 3])].max())
    assert part.rollouts.response_ids.shape == (2, width)
    assert torch.equal(part.advantages, batch.advantages[torch.tensor([0, 3]), :width])
    assert not batch.advantages[torch.tensor([0, 3]), width:].any()


def test_gradient_beyond_the_limit_is_scaled_down_to_it():
    _, free = trained(max_grad_norm=None, num_ppo_epochs=1)
    losses, limited = trained(max_grad_norm=1e-6, num_ppo_epochs=1, adam_epsilon=1.0)
    _, unlimited = trained(max_grad_norm=None, num_ppo_epochs=1, adam_epsilon=1.0)
    start = actor_and_batch()[0].state_dict()
    moved = max(float((limited[name] - start[name]).abs().max()) for name in start)
    assert losses[0].gradient_norm > 1e-3
    assert moved < 1e-7 < max(float((unlimited[name] - start[name]).abs().max()) for name in start)
    assert any(not torch.equal(free[name], start[name]) for name in start)


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("linear", 0, [1.0, 0.75, 0.5, 0.25]),
        ("constant", 0, [1.0, 1.0, 1.0, 1.0]),
        ("linear", 2, [1 / 3, 2 / 3, 1.0, 0.5]),
        ("constant", 1, [0.5, 1.0, 1.0, 1.0]),
    ],
)
def test_learning_rate_rises_then_follows_its_schedule(schedule, warmup, expected):
    chosen = settings(steps=4, warmup_steps=warmup, lr_scheduler_type=schedule)
    assert [rate_factor(step, chosen) for step in range(4)] == pytest.approx(expected)
    actor, batch = actor_and_batch()
    update = PolicyUpdate(actor, chosen)
    for step, factor in enumerate(expected):
        update(step, batch, [torch.arange(5)])
        rates = [group["lr"] for group in update.optimizer.param_groups]
        assert rates == pytest.approx([factor * chosen.learning_rate, 2 * factor * chosen.learning_rate])


@pytest.mark.parametrize("schedule", ["linear", "constant"])
@pytest.mark.parametrize("warmup", [0, 2])
def test_schedule_begins_with_the_policy_and_the_critic_before_it_learns_at_the_full_rate(schedule, warmup):
    without = settings(steps=4, warmup_steps=warmup, lr_scheduler_type=schedule)
    chosen = without.model_copy(update={"steps": 7, "critic_warmup_steps": 3})
    later = [rate_factor(step, without) for step in range(4)]
    assert [rate_factor(step, chosen) for step in range(7)] == [1.0, 1.0, 1.0, *later]


@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_critic_alone_learns_at_first(micro_batch_size):
    actor, batch = actor_and_batch()
    update = PolicyUpdate(actor, settings(critic_warmup_steps=2, micro_batch_size=micro_batch_size))
    start = {name: weight.clone() for name, weight in actor.state_dict().items()}
    errors = [losses.value for step in range(2) for losses in update(step, batch, [torch.arange(5)] * 2)]
    changed = {name for name, weight in actor.state_dict().items() if not torch.equal(weight, start[name])}
    assert changed == {"critic.linear.weight", "critic.linear.bias"} and errors[-1] < errors[0]
    # The policy's moments begin with the policy, too, as if nothing had been before.
    assert all(each.requires_grad for each in actor.policy.parameters())
    assert set(update.optimizer.state) == set(actor.critic.parameters())
    update(2, batch, [torch.arange(5)])
    assert {float(each["step"]) for each in update.optimizer.state.values()} == {1.0, 5.0}
    moved = {name for name, weight in actor.state_dict().items() if not torch.equal(weight, start[name])}
    assert moved >= {name for name, each in actor.named_parameters() if each.requires_grad}


class Forgetful(Actor):
    """An actor whose forward pass has memory for a few responses only."""

    room, error = 2, torch.OutOfMemoryError("CUDA out of memory")

    def forward(self, rollouts):
        if len(rollouts) > self.room:
            raise self.error
        return super().forward(rollouts)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("can't allocate memory: you tried")],
    ids=lambda error: type(error).__name__,
)
def test_out_of_memory_is_tried_again_with_half_the_micro_batch_until_it_fits(error, caplog):
    whole, whole_batch = actor_and_batch()
    expected = PolicyUpdate(whole, settings())(0, whole_batch, [torch.arange(5)])
    actor, batch = actor_and_batch()
    forgetful = Forgetful(actor.policy, actor.critic, None)
    forgetful.error, forgetful.room = error, 1
    update = PolicyUpdate(forgetful, settings())
    with caplog.at_level(logging.WARNING):
        losses = update(0, batch, [torch.arange(5)]) + update(1, batch, [torch.arange(5)])
    assert losses[0].policy == pytest.approx(expected[0].policy, abs=1e-5)
    # What was learned about memory is kept.
    assert [record.message for record in caplog.records] == [
        f"out of memory while updating: continuing with micro_batch_size {rows}" for rows in (2, 1)
    ]


def test_memory_for_no_response_ends_the_trial_by_name():
    actor, batch = actor_and_batch()
    forgetful = Forgetful(actor.policy, actor.critic, None)
    forgetful.room = 0
    with pytest.raises(TrialFailed, match="micro_batch_size 1 either") as failure:
        PolicyUpdate(forgetful, settings())(0, batch, [torch.arange(5)])
    assert failure.value.reason == "out_of_memory" and "batch_size" in failure.value.hint


def test_gradients_are_gone_after_an_update():
    actor, batch = actor_and_batch()
    PolicyUpdate(actor, settings())(0, batch, [torch.arange(5)])
    assert all(weight.grad is None for weight in actor.parameters())


def test_other_errors_are_no_lack_of_memory():
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(ValueError("alloc memory"))


@pytest.mark.parametrize("broken", ["advantages", "returns"])
def test_loss_that_is_not_finite_ends_the_trial_before_the_parameters_move(broken):
    actor, batch = actor_and_batch()
    getattr(batch, broken)[1, 0] = float("nan")
    before = {name: weight.clone() for name, weight in actor.state_dict().items()}
    with pytest.raises(TrialFailed, match="at step 4") as failure:
        PolicyUpdate(actor, settings())(4, batch, [torch.arange(5)])
    assert failure.value.reason == "nan"
    assert all(torch.equal(weight, before[name]) for name, weight in actor.state_dict().items())
