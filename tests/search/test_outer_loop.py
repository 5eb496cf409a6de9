"""The outer loop on a cheap objective: order of arms, the traps of the libraries, going on after a kill."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.settings import SearchSettings
from pipeline.search import ax_patches
from pipeline.search.outer_loop import OuterLoop
from pipeline.search.proposal import Proposal
from pipeline.search.tracked import TRACKED
from search_spaces import StudySpace, make_space
from shaping.errors import ShapetuneError
from shaping.shape import Shape

# Gaussian processes are fitted again and again.
pytestmark = pytest.mark.slow

SPACE = StudySpace(make_space("credit_mix", base=Shape(), methods=("prefix", "attention", "shapley")))


def outer_loop(folder: Path, trials: int = 9, seed: int = 0, **changes: Any) -> OuterLoop:
    search = SearchSettings(trials=trials, sobol_trials=2, seed=seed, seeds=(0,), **changes)
    return OuterLoop("study", SPACE, folder / "study.db", search)


def value(shape: Shape) -> float:
    """A smooth objective with its best point at pure prefix, lambda 0.75; repeatable noise."""
    noise = random.Random(repr(shape.to_dict())).gauss(0, 0.02)
    dense = shape.weights["prefix"] + 0.4 * shape.weights["shapley"]
    return dense - 4 * (shape.gae_lambda - 0.75) ** 2 + noise


def tell(outer: OuterLoop, proposal: Proposal) -> None:
    outer.tell(proposal.index, {0: value(proposal.shape)}, dict.fromkeys(TRACKED, 0.0))


def run(outer: OuterLoop) -> list[Proposal]:
    proposals = []
    while (proposal := outer.ask()) is not None:
        proposals.append(proposal)
        tell(outer, proposal)
    return proposals


def test_baselines_come_first_then_sobol_then_the_model_and_the_best_is_found(tmp_path: Path) -> None:
    outer = outer_loop(tmp_path)
    proposals = run(outer)
    assert [proposal.arm for proposal in proposals[:4]] == ["sparse", "prefix", "attention", "shapley"]
    assert [proposal.origin for proposal in proposals] == ["baseline"] * 4 + ["sobol"] * 2 + ["model"] * 3
    assert outer.finished() and outer.ask() is None
    ranking = outer.ranking()
    assert len(ranking) == 9 and ranking[0].from_model
    best = next(proposal for proposal in proposals if proposal.index == ranking[0].index)
    assert best.shape.weights["prefix"] > 0.8
    worst = next(proposal for proposal in proposals if proposal.index == ranking[-1].index)
    assert value(worst.shape) < value(best.shape) - 0.3


def test_one_seed_gives_the_same_trials_twice_and_another_does_not(tmp_path: Path) -> None:
    shapes = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        shapes.append([proposal.shape for proposal in run(outer_loop(tmp_path / name, trials=7, seed=seed))])
    assert shapes[0] == shapes[1]
    assert shapes[0] != shapes[2]


def test_an_interrupted_search_hands_its_running_trial_out_again(tmp_path: Path) -> None:
    first = outer_loop(tmp_path)
    for _ in range(2):
        proposal = first.ask()
        assert proposal is not None
        tell(first, proposal)
    lost = first.ask()
    assert lost is not None
    # A new process: nothing of the first loop is used but its database.
    second = outer_loop(tmp_path)
    again = second.ask()
    assert again == lost
    tell(second, again)
    rest = run(second)
    assert [proposal.index for proposal in rest] == list(range(3, 9))
    assert len(second.ranking()) == 9


def test_a_failed_trial_is_never_proposed_again_and_the_search_goes_on(tmp_path: Path) -> None:
    outer = outer_loop(tmp_path, trials=10)
    failed: list[Shape] = []
    others: list[Shape] = []
    while (proposal := outer.ask()) is not None:
        if proposal.index in (1, 7):
            failed.append(proposal.shape)
            outer.fail(proposal.index)
        else:
            others.append(proposal.shape)
            tell(outer, proposal)
    assert len(failed) == 2 and len(others) == 8
    assert all(shape not in others for shape in failed)
    states = {row["index"]: row["status"] for row in outer.trials()}
    assert states[1] == states[7] == "abandoned"
    assert all(row.index not in (1, 7) for row in outer.ranking())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_never_reaches_the_model(bad: float, tmp_path: Path) -> None:
    outer = outer_loop(tmp_path)
    proposal = outer.ask()
    assert proposal is not None
    with pytest.raises(ShapetuneError, match="not finite"):
        outer.tell(proposal.index, {0: bad}, dict.fromkeys(TRACKED, 0.0))
    outer.fail(proposal.index)
    assert len(run(outer)) == 8


def test_proposals_differ_while_others_run(tmp_path: Path) -> None:
    outer = outer_loop(tmp_path, trials=10)
    for _ in range(6):
        proposal = outer.ask()
        assert proposal is not None
        tell(outer, proposal)
    running = [outer.ask() for _ in range(4)]
    points = [SPACE.encode(proposal.candidate) for proposal in running if proposal is not None]
    assert len(points) == 4
    vectors = np.array([list(point.values()) for point in points])
    distances = [np.abs(a - b).max() for i, a in enumerate(vectors) for b in vectors[:i]]
    assert min(distances) > 0.01


def test_a_point_that_was_tried_is_not_tried_again_however_good(tmp_path: Path) -> None:
    # The best point is a corner, which the model would propose again and again, off by rounding.
    outer = outer_loop(tmp_path, trials=16)
    points = []
    while (proposal := outer.ask()) is not None:
        points.append(np.array(list(SPACE.encode(proposal.candidate).values())))
        weights = proposal.shape.weights
        outer.tell(proposal.index, {0: 5 * weights["prefix"] - 3 * proposal.shape.gae_lambda}, {})
    assert len(points) == 16
    distances = [np.abs(a - b).max() for i, a in enumerate(points) for b in points[:i]]
    assert min(distances) > 4e-4


def test_points_on_a_face_survive_the_filter_of_pending_points() -> None:
    face = torch.tensor([[0.1 + 0.2, 0.7 + 1e-15, 1.0], [0.5, 0.5, 0.0], [0.9, 0.2, 0.5]], dtype=torch.float64)
    constraints = (torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64), torch.tensor([[1.0]], dtype=torch.float64))
    kept = ax_patches.tolerant_filter(face, [(0.0, 1.0)] * 3, constraints)
    assert kept.tolist() == face[:2].tolist()


def test_no_ranking_before_anything_is_known(tmp_path: Path) -> None:
    outer = outer_loop(tmp_path)
    assert outer.ranking() == [] and not outer.finished() and not outer.any_completed()
