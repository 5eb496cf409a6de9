import pytest
import torch

from pipeline.trainers.ppo.losses import whiten
from shaping.advantages import by_doubling, generalized_advantages
from tests.support.counted_kernels import CountedKernels

LENGTHS = [5, 1, 3, 0]
MASK = torch.arange(5) < torch.tensor(LENGTHS)[:, None]


def random_rows(seed):
    """Return rewards and values with numbers on the padding that must not count."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 5, generator=generator), torch.randn(4, 5, generator=generator)


def by_loop(rewards, values, gamma, gae_lambda):
    """Return ``A_t = sum_k (gamma lambda)^k delta_{t+k}`` for one response without padding."""
    after = [*values[1:], 0.0][: len(values)]
    deltas = [r + gamma * following - v for r, v, following in zip(rewards, values, after, strict=True)]
    return [
        sum((gamma * gae_lambda) ** k * delta for k, delta in enumerate(deltas[start:])) for start in range(len(deltas))
    ]


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 0.95), (1.0, 1.0), (1.0, 0.0), (0.9, 0.6), (0.5, 1.0)])
def test_advantages_equal_the_sum_of_discounted_errors(gamma, gae_lambda):
    rewards, values = random_rows(seed=0)
    advantages, returns = generalized_advantages(rewards, values, MASK, gamma, gae_lambda)
    for row, length in enumerate(LENGTHS):
        expected = by_loop(rewards[row, :length].tolist(), values[row, :length].tolist(), gamma, gae_lambda)
        assert advantages[row, :length].tolist() == pytest.approx(expected, abs=1e-5)
        targets = [a + v for a, v in zip(expected, values[row, :length].tolist(), strict=True)]
        assert returns[row, :length].tolist() == pytest.approx(targets, abs=1e-5)
        assert not advantages[row, length:].any()
        assert not returns[row, length:].any()


def test_full_lambda_gives_the_reward_to_go():
    rewards, values = random_rows(seed=1)
    _, returns = generalized_advantages(rewards, values, MASK, 1.0, 1.0)
    for row, length in enumerate(LENGTHS):
        to_go = rewards[row, :length].flip(0).cumsum(0).flip(0)
        torch.testing.assert_close(returns[row, :length], to_go)


def test_perfect_critic_of_a_sparse_reward_leaves_no_advantage():
    rewards = torch.tensor([[0.0, 0.0, 2.0]])
    advantages, returns = generalized_advantages(rewards, torch.full((1, 3), 2.0), MASK[2:3, :3], 1.0, 0.7)
    assert advantages.tolist() == [[0, 0, 0]]
    assert returns.tolist() == [[2, 2, 2]]


def test_inputs_are_left_as_they_were():
    rewards, values = random_rows(seed=2)
    before = rewards.clone(), values.clone()
    generalized_advantages(rewards, values, MASK, 1.0, 0.9)
    assert torch.equal(rewards, before[0])
    assert torch.equal(values, before[1])


def test_whitened_values_have_mean_zero_and_variance_one_over_real_tokens():
    values = 3 * random_rows(seed=3)[0] + 7
    white = whiten(values, MASK)
    real = white[MASK]
    assert float(real.mean()) == pytest.approx(0, abs=1e-6)
    assert float(real.var(correction=1)) == pytest.approx(1, abs=1e-5)
    assert not white[~MASK].any()
    expected = (values[MASK] - values[MASK].mean()) / values[MASK].std(correction=1)
    torch.testing.assert_close(real, expected)


def test_whitening_does_not_see_the_padding():
    values = random_rows(seed=4)[0]
    torch.testing.assert_close(whiten(values.masked_fill(~MASK, 1e4), MASK), whiten(values, MASK))


def test_whitening_equal_values_gives_zeros():
    assert whiten(torch.full((2, 3), 4.0), torch.ones(2, 3, dtype=torch.bool)).tolist() == [[0, 0, 0]] * 2


def test_whitening_nothing_gives_zeros():
    assert whiten(torch.full((1, 3), 4.0), torch.zeros(1, 3, dtype=torch.bool)).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("width", [1, 2, 3, 7, 64, 1000])
@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 1.0), (1.0, 0.95), (0.9, 0.0), (0.97, 0.5)])
def test_doubling_says_what_the_loop_says(width: int, gamma: float, gae_lambda: float) -> None:
    generator = torch.Generator().manual_seed(width)
    rewards, values = torch.randn(2, 5, width, generator=generator, dtype=torch.float64)
    lengths = torch.randint(0, width + 1, (5, 1), generator=generator)
    mask = torch.arange(width) < lengths
    expected, _ = generalized_advantages(rewards, values, mask, gamma, gae_lambda)
    found = by_doubling(rewards * mask, values * mask, mask, gamma, gae_lambda)
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert not bool(found[~mask].any())


def test_doubling_takes_few_kernels() -> None:
    mask, counted = torch.ones(4, 1024, dtype=torch.bool), CountedKernels()
    with counted:
        by_doubling(torch.zeros(4, 1024), torch.zeros(4, 1024), mask, 1.0, 0.95)
    # Token by token they are 7,177.
    assert 20 < counted.count < 100
