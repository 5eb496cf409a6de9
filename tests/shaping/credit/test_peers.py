"""Against the libraries that people use: exact values, regressions on the same coalitions, and error at a budget."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from shaping import METHODS
from shaping.credit.lime import KERNEL_WIDTH, RIDGE
from shaping.credit.paired_sampling import shares
from shaping.scoring import score_coalitions
from tests.support.games import by_subsets, structured_game
from tests.support.models.tiny_models import GameRewardModel, members_of_all, random_game

both = pytest.mark.parametrize("method", ["shapley", "kernel_shap"])
pytestmark = pytest.mark.filterwarnings("ignore")


def ours(method, values, budget=2**20, seed=0, **options):
    return METHODS[method].credit(GameRewardModel(values).batch(budget, seed, **options)).values[0].double().numpy()


def table(values):
    """Return the game as the peers call it: from rows of zeros and ones to values."""
    players = len(values).bit_length() - 1
    worth = values.double().numpy()
    return lambda rows: worth[np.asarray(rows).astype(int) @ 2 ** np.arange(players)]


def of_each_player(interactions, players):
    return np.array([interactions[(player,)] for player in range(players)])


def games_of_threes(players, seed):
    """Return main effects and interactions of three players, which no regression on single players can hold."""
    generator = torch.Generator().manual_seed(seed)
    member = members_of_all(players).float()
    values = member @ torch.randn(players, generator=generator)
    for _ in range(2 * players):
        three = torch.randperm(players, generator=generator)[:3]
        values = values + 0.7 * torch.randn(1, generator=generator) * member[:, three].prod(dim=1)
    return values


def planned(method, values, budget, seed):
    """Return the coalitions that a method plays and their values."""
    batch = GameRewardModel(values).batch(budget, seed, estimator="kernel")
    (group,) = METHODS[method].plan(batch)
    played = score_coalitions(batch.reward_model, batch.rollouts, [group]).values[0][0]
    return group.members[0], played


@pytest.mark.parametrize("players", [2, 5, 8, 10])
@both
def test_enumerated_values_equal_shapiqs_exact_computer(method, players):
    shapiq = pytest.importorskip("shapiq")
    values = random_game(players, seed=players)
    expected = of_each_player(shapiq.ExactComputer(table(values), players)("SV"), players)
    np.testing.assert_allclose(ours(method, values), expected, atol=2e-5)


@pytest.mark.parametrize("players", [4, 7, 9])
@both
def test_all_coalitions_give_what_shapiqs_paired_regression_gives(method, players):
    shapiq = pytest.importorskip("shapiq")
    values = random_game(players, seed=players)
    peer = shapiq.KernelSHAP(players, pairing_trick=True, random_state=0)
    expected = of_each_player(peer.approximate(2**players, table(values)), players)
    np.testing.assert_allclose(ours(method, values), expected, atol=1e-4)


@pytest.mark.parametrize("players", [3, 7])
@both
def test_all_coalitions_give_what_shaps_kernel_explainer_gives(method, players):
    shap = pytest.importorskip("shap")
    values = random_game(players, seed=players)
    explainer = shap.KernelExplainer(table(values), np.zeros((1, players)))
    expected = explainer.shap_values(np.ones((1, players)), nsamples=2**players, l1_reg=False, silent=True)[0]
    np.testing.assert_allclose(ours(method, values), expected, atol=2e-5)


@both
def test_all_coalitions_give_what_captums_shapley_values_give(method):
    attr = pytest.importorskip("captum.attr")
    values = random_game(5, seed=5)

    def worth(rows: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(table(values)(rows.numpy()))

    expected = attr.ShapleyValues(worth).attribute(torch.ones(1, 5), perturbations_per_eval=32)[0]
    np.testing.assert_allclose(ours(method, values), expected.numpy(), atol=2e-5)


def by_captum(members, values, weights, model):
    """Return the coefficients of captum's local model on given coalitions."""
    attr = pytest.importorskip("captum.attr")
    rows, worth = list(members.float()), values.double()

    def perturb(original: torch.Tensor, **_: object):
        yield from (row[None] for row in rows)

    lookup = {tuple(row.tolist()): place for place, row in enumerate(rows)}
    peer = attr.LimeBase(
        lambda row: float(worth[lookup[tuple(row[0].tolist())]]),
        model,
        lambda original, perturbed, row, **_: float(weights[lookup[tuple(row[0].tolist())]]),
        perturb,
        perturb_interpretable_space=True,
        from_interp_rep_transform=lambda row, original, **_: row,
        to_interp_rep_transform=None,
    )
    return peer.attribute(torch.ones(1, members.shape[1]), n_samples=len(rows)).flatten().numpy()


def lime_kernel(members):
    """Return LIME's distances and weights of coalitions."""
    distance = 1 - members.double().mean(dim=1).numpy()
    return distance, np.exp(-((distance / KERNEL_WIDTH) ** 2))


# All coalitions, or a sample of some.
lime_cases = pytest.mark.parametrize(("players", "budget"), [(6, 64), (10, 100), (13, 40)])


@lime_cases
def test_local_model_equals_captums_on_the_same_coalitions(players, budget):
    linear = pytest.importorskip("captum._utils.models.linear_model")
    values = random_game(players, seed=players)
    members, worth = planned("lime", values, budget, seed=1)
    _, weights = lime_kernel(members)
    # The libraries' ridge is not scaled by the sum of the weights.
    model = linear.SkLearnRidge(alpha=RIDGE * weights.sum(), fit_intercept=True)
    expected = by_captum(members, worth, weights, model)
    np.testing.assert_allclose(ours("lime", values, budget, 1, estimator="kernel"), expected, atol=1e-4)


@lime_cases
def test_local_model_equals_limes_on_the_same_coalitions(players, budget):
    lime = pytest.importorskip("lime.lime_base")
    values = random_game(players, seed=players)
    members, worth = planned("lime", values, budget, seed=1)
    distances, weights = lime_kernel(members)
    peer = lime.LimeBase(lambda given: np.exp(-((given / KERNEL_WIDTH) ** 2)), random_state=0)
    _, found, _, _ = peer.explain_instance_with_data(
        members.double().numpy(),
        worth.double().numpy()[:, None],
        distances,
        0,
        players,
        feature_selection="none",
        model_regressor=Ridge(alpha=RIDGE * weights.sum(), fit_intercept=True),
    )
    expected = np.array([dict(found)[player] for player in range(players)])
    np.testing.assert_allclose(ours("lime", values, budget, 1, estimator="kernel"), expected, atol=2e-5)


def test_sampled_regression_equals_captums_with_the_kernel_of_shap_on_the_same_coalitions(monkeypatch):
    linear = pytest.importorskip("captum._utils.models.linear_model")
    monkeypatch.setattr("shaping.credit.ridge.STRENGTHS", (1e-9,))
    values = structured_game(9, seed=2, noise=0.5)
    members, worth = planned("kernel_shap", values, 128, seed=3)
    size = np.minimum(members.sum(dim=1), 9 - members.sum(dim=1)).numpy()
    # The kernel of all coalitions of a size and its complement, spread over those that are played on average.
    weights = np.full(len(members), 1e6)
    for place in range(1, 5):
        weights[size == place] = 8 / (place * (9 - place)) / shares(9, 63)[0][place - 1]
    expected = by_captum(members, worth, weights, linear.SkLearnLinearRegression())
    np.testing.assert_allclose(ours("kernel_shap", values, 128, 3, estimator="kernel"), expected, atol=1e-4)


@pytest.mark.parametrize("budget", [64, 128])
@pytest.mark.parametrize("players", [10, 11, 12])
def test_error_at_a_budget_is_no_larger_than_that_of_shapiqs_paired_regression(players, budget):
    shapiq = pytest.importorskip("shapiq")
    mine, theirs = [], []
    games = [structured_game(players, seed, noise=0.3, pairs=0.3) for seed in range(2)]
    games += [games_of_threes(players, seed) for seed in range(2)]
    for values in games:
        exact = by_subsets(values).numpy()
        scale = float((exact**2).mean())
        for seed in range(20):
            peer = shapiq.KernelSHAP(players, pairing_trick=True, random_state=seed)
            found = of_each_player(peer.approximate(budget, table(values)), players)
            theirs.append(float(((found - exact) ** 2).mean()) / scale)
            found = ours("kernel_shap", values, budget, seed, estimator="kernel")
            mine.append(float(((found - exact) ** 2).mean()) / scale)
    assert np.mean(mine) < 1.1 * np.mean(theirs)
