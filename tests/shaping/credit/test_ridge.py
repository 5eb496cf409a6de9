import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from shaping.credit.ridge import STRENGTHS, Design

CASES = [(40, 6, 0), (12, 6, 1), (6, 6, 2), (4, 7, 3), (1, 5, 4)]
cases = pytest.mark.parametrize(("rows", "columns", "seed"), CASES)


def problem(rows, columns, seed, responses=3, noise=0.5):
    """Return a design whose rows sum to 0, weights, and targets of responses that differ in their noise."""
    generator = np.random.default_rng(seed)
    design = (generator.random((rows, columns)) < 0.5).astype(float)
    design[:, 0] = generator.random(rows)
    design -= design.mean(axis=1, keepdims=True)
    weights = generator.random(rows) + 0.1
    loud = noise * 4.0 ** np.arange(responses)[:, None]
    targets = generator.normal(size=(responses, columns)) @ design.T + loud * generator.normal(size=(responses, rows))
    return design, weights, targets


def tensors(*arrays):
    return tuple(torch.from_numpy(array) for array in arrays)


def penalty(design, weights, strength):
    """Return the ridge in absolute terms: the strength times the mean square of the singular values above 0."""
    root = np.sqrt(weights / weights.sum())[:, None]
    singular = np.linalg.svd(root * design, compute_uv=False)
    return strength * np.mean(singular[singular > 1e-9 * singular.max()] ** 2)


def hat_matrix(design, weights, strength):
    """Return the matrix that takes weighted targets to their fit, written out."""
    rooted = np.sqrt(weights / weights.sum())[:, None] * design
    normal = rooted.T @ rooted + penalty(design, weights, strength) * np.eye(design.shape[1])
    return rooted @ np.linalg.solve(normal, rooted.T)


@cases
@pytest.mark.parametrize("strength", [1e-3, 0.1, 10.0])
def test_coefficients_equal_sklearns_ridge_on_the_weighted_rows(rows, columns, seed, strength):
    design, weights, targets = problem(rows, columns, seed)
    found = Design.of(*tensors(design, weights)).solve(torch.from_numpy(targets), strength)
    ridge = Ridge(alpha=penalty(design, weights, strength), fit_intercept=False, solver="cholesky")
    for place, target in enumerate(targets):
        expected = ridge.fit(design, target, sample_weight=weights / weights.sum()).coef_
        np.testing.assert_allclose(found[place].numpy(), expected, atol=1e-9)


@pytest.mark.parametrize(("rows", "columns"), [(40, 6), (9, 6)])
def test_least_strength_is_least_squares(rows, columns):
    design, weights, targets = problem(rows, columns, 5)
    found = Design.of(*tensors(design, weights)).solve(torch.from_numpy(targets), STRENGTHS[0])
    root = np.sqrt(weights)[:, None]
    expected = np.linalg.lstsq(root * design, root * targets.T, rcond=None)[0].T
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_coefficients_of_rows_that_sum_to_zero_sum_to_zero():
    design, weights, targets = problem(20, 6, 6)
    found = Design.of(*tensors(design, weights)).solve(torch.from_numpy(targets), 0.1)
    np.testing.assert_allclose(found.sum(dim=1).numpy(), 0, atol=1e-10)


def test_a_common_factor_of_the_weights_changes_nothing():
    design, weights, targets = problem(20, 6, 7)
    one, other = (
        Design.of(*tensors(design, factor * weights)).solve(torch.from_numpy(targets), 0.1) for factor in (1.0, 50.0)
    )
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("rows", "columns", "seed", "noise"), [(40, 6, 0, 3.0), (40, 6, 1, 0.1), (9, 6, 2, 1.0)])
def test_strength_is_the_one_of_least_cross_validation_error_by_the_hat_matrix(rows, columns, seed, noise):
    design, weights, targets = problem(rows, columns, seed, noise=noise)
    weighted = targets * np.sqrt(weights / weights.sum())
    errors = []
    for strength in STRENGTHS:
        hat = hat_matrix(design, weights, strength)
        left = weighted - weighted @ hat
        # Each response's residual counts relative to its own size: a loud one must not decide alone.
        relative = [np.sum(row**2) / np.sum(whole**2) for row, whole in zip(left, weighted, strict=True)]
        errors.append(np.mean(relative) / (rows - np.trace(hat)) ** 2)
    found = Design.of(*tensors(design, weights)).best_strength(torch.from_numpy(targets))
    assert found == STRENGTHS[int(np.argmin(errors))]


def test_strength_rises_with_noise_and_is_least_without():
    design, weights, _ = problem(40, 6, 8)
    generator, chosen = np.random.default_rng(9), []
    signal = generator.normal(size=6) @ design.T
    for noise in (0.0, 1.0, 30.0):
        targets = torch.from_numpy(signal + noise * generator.normal(size=(20, 40)))
        chosen.append(Design.of(*tensors(design, weights)).best_strength(targets))
    assert chosen[0] == STRENGTHS[0]
    assert chosen[0] < chosen[1] < chosen[2]


def test_strength_does_not_depend_on_the_scale_of_a_response():
    design, weights, targets = problem(20, 6, 10, noise=1.0)
    scaled = targets * np.array([[100.0], [1.0], [0.01]])
    one, other = (
        Design.of(*tensors(design, weights)).best_strength(torch.from_numpy(each)) for each in (targets, scaled)
    )
    assert one == other


def test_responses_without_any_signal_get_no_coefficients():
    design, weights, _ = problem(20, 6, 11)
    found = Design.of(*tensors(design, weights))
    nothing = torch.zeros(3, 20, dtype=torch.float64)
    strength = found.best_strength(nothing)
    assert strength in STRENGTHS
    assert not found.solve(nothing, strength).any()
    assert not found.shrinkage_variance(nothing, strength).any()


@pytest.mark.parametrize(("rows", "columns"), [(30, 6), (3, 6)])
@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_shrinkage_is_what_a_ridge_misses_of_coefficients_of_its_own_prior(rows, columns, strength):
    design, weights, targets = problem(rows, columns, 12)
    root = np.sqrt(weights / weights.sum())[:, None]
    ridge = penalty(design, weights, strength)
    solve = np.linalg.solve(
        (root * design).T @ (root * design) + ridge * np.eye(columns), (root * design).T @ (root * design)
    )
    hat = hat_matrix(design, weights, strength)
    expected = []
    for row in targets * root[:, 0]:
        left = row - hat @ row
        noise = np.sum(left**2) / (rows - np.trace(hat))
        # The coefficients sum to 0 and have variance noise / ridge; what is missed of them is 1 - solve.
        prior = noise / ridge * (np.eye(columns) - 1 / columns)
        missed = np.eye(columns) - solve
        expected.append(np.diag(missed @ prior @ missed.T))
    found = Design.of(*tensors(design, weights)).shrinkage_variance(torch.from_numpy(targets), strength)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-9)


def risk_by_matrices(design, weights, targets, unseen, strength):
    """Return Stein's estimate of each row's squared error and its size, with the matrices written out."""
    root = np.sqrt(weights / weights.sum())
    rooted = root[:, None] * design
    inverse = np.linalg.pinv(rooted)
    leverage = np.diag(rooted @ inverse)
    penalized = rooted.T @ rooted + penalty(design, weights, strength) * np.eye(design.shape[1])
    kept = np.linalg.solve(penalized, rooted.T @ rooted)
    # Rows of the design sum to 0: the constant direction is nobody's to estimate.
    taken = np.eye(design.shape[1]) - 1 / design.shape[1] - kept
    found = []
    for target in targets * root:
        left = target - rooted @ inverse @ target
        noise = inverse @ np.diag(left**2 / (1 - leverage) * unseen) @ inverse.T
        lost = taken @ inverse @ target
        whole = np.sum((inverse @ target) ** 2) + np.trace(noise)
        found.append((lost @ lost + 2 * np.trace(kept @ noise) - np.trace(noise), whole))
    return np.array(found).T


@pytest.mark.parametrize("factor", [1.0, 0.5])
@pytest.mark.parametrize(("rows", "columns", "seed", "noise"), [(40, 6, 0, 3.0), (40, 6, 1, 0.1), (12, 6, 2, 1.0)])
def test_strength_of_least_risk_is_that_of_least_estimate_by_matrices(rows, columns, seed, noise, factor):
    design, weights, targets = problem(rows, columns, seed, noise=noise)
    unseen = np.random.default_rng(seed).random(rows).round(1)
    risks = [
        np.mean(np.divide(*risk_by_matrices(design, weights, targets, unseen, factor * each))) for each in STRENGTHS
    ]
    found = Design.of(*tensors(design, weights)).least_risk(*tensors(targets, unseen), factor)
    assert found == STRENGTHS[int(np.argmin(risks))]


def test_what_fully_drawn_equations_leave_is_no_noise():
    design, weights, targets = problem(40, 6, 3, noise=10.0)
    found = Design.of(*tensors(design, weights))
    drawn, sampled = (found.least_risk(torch.from_numpy(targets), torch.full((40,), each)) for each in (0.0, 1.0))
    assert drawn == STRENGTHS[0] < 0.1 <= sampled


@pytest.mark.parametrize("strength", [1e-3, 0.1, 1.0, 10.0])
def test_estimated_risk_has_the_ridges_squared_error_as_its_mean(strength):
    design, generator = problem(40, 6, 4)[0], np.random.default_rng(5)
    truth, weights = np.random.default_rng(6).normal(size=6), np.ones(40)
    truth -= truth.mean()
    targets = design @ truth + 3.0 * generator.normal(size=(2_000, 40))
    solved = Design.of(*tensors(design, weights)).solve(torch.from_numpy(targets), strength).numpy()
    real = np.sum((solved - truth) ** 2, axis=1)
    estimated, _ = risk_by_matrices(design, weights, targets, weights, strength)
    assert np.mean(estimated) == pytest.approx(np.mean(real), rel=0.05)
