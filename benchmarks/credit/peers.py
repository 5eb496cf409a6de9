"""Other libraries' estimators behind one interface: a game of boolean coalitions in, unit values out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Values = NDArray[np.float64]
# From coalitions n x N to their n values.
Game = Callable[[NDArray[np.bool_]], Values]
# From the game, N, the number of evaluations and a seed to the N values.
Estimator = Callable[[Game, int, int, int], Values]


@dataclass(frozen=True)
class Peer:
    """An estimator of another library.

    Attributes:
        name: As the table shows it.
        estimate: Runs it.
        evaluations_per_call: How many coalitions it scores in one call of the model, by default.
    """

    name: str
    estimate: Estimator
    evaluations_per_call: int


def shapiq_paired(game: Game, units: int, budget: int, seed: int) -> Values:
    """Return shapiq's KernelSHAP with paired sampling."""
    from shapiq import KernelSHAP

    found = KernelSHAP(n=units, pairing_trick=True, random_state=seed).approximate(budget, game)
    return _first_order(found, units)


def shapiq_default(game: Game, units: int, budget: int, seed: int) -> Values:
    """Return shapiq's KernelSHAP as it comes."""
    from shapiq import KernelSHAP

    return _first_order(KernelSHAP(n=units, random_state=seed).approximate(budget, game), units)


def shap_kernel(game: Game, units: int, budget: int, seed: int) -> Values:
    """Return shap's KernelExplainer without its feature selection."""
    import shap

    with _seeded(seed):
        background, everything = np.zeros((1, units)), np.ones((1, units))
        explainer = shap.KernelExplainer(lambda z: game(z > 0.5), background)
        found: Values = np.asarray(explainer.shap_values(everything, nsamples=budget - 2, l1_reg=False, silent=True))[0]
    return found


def captum_kernel(game: Game, units: int, budget: int, seed: int) -> Values:
    """Return captum's KernelShap."""
    from captum.attr import KernelShap

    with _seeded(seed):
        found = KernelShap(_one_by_one(game)).attribute(torch.ones(1, units), n_samples=budget)
    return _numbers(found)


def captum_sampling(game: Game, units: int, budget: int, seed: int) -> Values:
    """Return captum's ShapleyValueSampling; its permutations are as many as the budget pays for."""
    from captum.attr import ShapleyValueSampling

    with _seeded(seed):
        attribute = ShapleyValueSampling(_one_by_one(game)).attribute
        found = attribute(torch.ones(1, units), n_samples=max(1, (budget - 1) // units))
    return _numbers(found)


def lime_text(game: Game, units: int, budget: int, seed: int) -> Values:
    """Return lime's text explainer on one word a unit; a local model, not Shapley values."""
    from lime.lime_text import LimeTextExplainer

    words = [f"w{unit}" for unit in range(units)]

    def classify(texts: list[str]) -> Values:
        present = np.array([[word in text.split() for word in words] for text in texts])
        value = game(present)
        return np.stack([-value, value], axis=1)

    explained = LimeTextExplainer(bow=True, random_state=seed).explain_instance(
        " ".join(words), classify, labels=(1,), num_features=units, num_samples=budget
    )
    weight = dict(explained.as_list(label=1))
    return np.array([weight[word] for word in words])


PEERS = (
    Peer("shapiq KernelSHAP, paired", shapiq_paired, 128),
    Peer("shapiq KernelSHAP, default", shapiq_default, 128),
    Peer("shap KernelExplainer, l1_reg=False", shap_kernel, 128),
    Peer("captum KernelShap", captum_kernel, 1),
    Peer("captum ShapleyValueSampling", captum_sampling, 1),
    Peer("lime LimeTextExplainer (other estimand)", lime_text, 128),
)


def _first_order(found: Any, units: int) -> Values:
    return np.array([found[(unit,)] for unit in range(units)])


def _numbers(found: torch.Tensor) -> Values:
    """Return the first row, in double precision."""
    values: Values = found[0].double().numpy()
    return values


def _one_by_one(game: Game) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda rows: torch.as_tensor(game(rows.numpy() > 0.5))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators that these libraries draw from, and keep their warnings to themselves."""
    np.random.seed(seed)
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
