import pytest
import torch

from pipeline.trainers.ppo.losses import kl_estimate, masked_mean, policy_loss, value_loss

REAL = torch.tensor([[True, True, True, True, False]])
OLD = torch.full((1, 5), -1.0)
# Probability ratios 1.5, 1.5, 0.5, 0.5 and, on padding, 90.
RATIOS = torch.tensor([[1.5, 1.5, 0.5, 0.5, 90.0]])
ADVANTAGES = torch.tensor([[1.0, -1.0, 1.0, -1.0, 50.0]])


def test_policy_loss_of_hand_worked_numbers():
    loss = policy_loss(OLD + RATIOS.log(), OLD, ADVANTAGES, REAL, clip=0.2)
    # max(-1.5, -1.2), max(1.5, 1.2), max(-0.5, -0.8), max(0.5, 0.8)
    assert float(loss) == pytest.approx((-1.2 + 1.5 - 0.5 + 0.8) / 4)


def test_policy_gradient_stops_where_a_move_is_clipped():
    log_probs = (OLD + RATIOS.log()).requires_grad_()
    policy_loss(log_probs, OLD, ADVANTAGES, REAL, clip=0.2).backward()
    torch.testing.assert_close(log_probs.grad, torch.tensor([[0, 1.5 / 4, -0.5 / 4, 0, 0]]))


def test_policy_gradient_at_the_old_policy_is_that_of_reinforce():
    log_probs = OLD.clone().requires_grad_()
    policy_loss(log_probs, OLD, ADVANTAGES, REAL, clip=0.2).backward()
    torch.testing.assert_close(log_probs.grad, -ADVANTAGES * REAL / 4)


def test_value_loss_of_hand_worked_numbers():
    values = torch.tensor([[2.0, 0.4, 3.0, 9.0]])
    old_values = torch.tensor([[0.0, 0.0, 2.0, 0.0]])
    returns = torch.tensor([[1.0, 1.0, 3.0, 0.0]])
    loss = value_loss(values, old_values, returns, torch.tensor([[True, True, True, False]]), clip=0.5)
    # max(1, 0.25) too far and beyond the return, 0.36 within the clip, max(0, 0.25) right but moved too far.
    assert float(loss) == pytest.approx(0.5 * (1.0 + 0.36 + 0.25) / 3)


def test_value_gradient_stops_where_the_clipped_error_is_larger():
    values = torch.tensor([[0.9, 0.4]], requires_grad=True)
    old_values, returns = torch.zeros(1, 2), torch.ones(1, 2)
    value_loss(values, old_values, returns, torch.ones(1, 2, dtype=torch.bool), clip=0.5).backward()
    torch.testing.assert_close(values.grad, torch.tensor([[0.0, (0.4 - 1.0) / 2]]))


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_kl_estimators_are_unbiased(estimator):
    generator = torch.Generator().manual_seed(0)
    policy = torch.randn(6, generator=generator).double().log_softmax(dim=0)
    reference = torch.randn(6, generator=generator).double().log_softmax(dim=0)
    exact = float((policy.exp() * (policy - reference)).sum())
    expectation = float((policy.exp() * kl_estimate(policy[None], reference[None], estimator)[0]).sum())
    assert exact > 0.1
    assert expectation == pytest.approx(exact, abs=1e-9)


def test_k3_is_never_negative_and_k1_is():
    policy, reference = torch.tensor([[-2.0, -1.0, -1.0]]), torch.tensor([[-1.0, -2.0, -1.0]])
    assert kl_estimate(policy, reference, "k1").tolist() == [[-1, 1, 0]]
    k3 = kl_estimate(policy, reference, "k3")[0].tolist()
    assert k3 == pytest.approx([2.718281828 - 2, 0.367879441, 0.0])


def test_k3_is_exact_for_small_differences():
    tiny = torch.tensor([[1e-4]])
    assert float(kl_estimate(tiny, torch.zeros(1, 1), "k3")) == pytest.approx(5e-9, rel=0.05)


def test_masked_mean_ignores_padding_and_survives_none():
    assert float(masked_mean(torch.tensor([1.0, 3.0, 100.0]), torch.tensor([True, True, False]))) == 2
    assert float(masked_mean(torch.ones(3), torch.zeros(3, dtype=torch.bool))) == 0
