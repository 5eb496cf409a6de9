"""What the outer loop's model is given and what it says: errors, stopped trials, constraints, other studies' trials."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.settings import ConstraintSettings, SearchSettings
from pipeline.search.early_stopping import Projection
from pipeline.search.generation_strategy import fit_effort, optimizer_options
from pipeline.search.observations import LEAST_FREEDOM, pooled_error
from pipeline.search.outer_loop import OuterLoop
from pipeline.search.proposal import EarlierTrial, Proposal
from search_spaces import BaselineArm, StudySpace, make_space
from shaping import METHODS
from shaping.errors import ConfigError, ShapetuneError
from shaping.shape import Shape

# Gaussian processes are fitted again and again.
pytestmark = pytest.mark.slow

SPACE = StudySpace(make_space("credit_mix", base=Shape(), methods=("prefix", "shapley")))
SEEDS = (0, 1)


def outer_loop(folder: Path, *more: Any, **search: Any) -> OuterLoop:
    settings = {"trials": 10, "sobol_trials": 3, "seeds": SEEDS, **search}
    return OuterLoop("study", SPACE, folder / "study.db", SearchSettings(**settings), *more)


def values_of(shape: Shape) -> dict[int, float]:
    """Best at pure prefix; seeds differ by 0.3 for all shapes alike."""
    chance = random.Random(repr(shape.to_dict()))
    level = shape.weights["prefix"] + 0.2 * shape.weights["shapley"]
    return {seed: level + 0.3 * seed + chance.gauss(0, 0.03) for seed in SEEDS}


def kl_of(shape: Shape) -> float:
    return 4.0 + 10 * shape.weights["prefix"]


def tell(outer: OuterLoop, proposal: Proposal) -> None:
    tracked = {"kl_nats": kl_of(proposal.shape), "reward": 1.0, "certificate_error": 1e-7}
    outer.tell(proposal.index, values_of(proposal.shape), tracked)


def run(outer: OuterLoop, then: Callable[[OuterLoop, Proposal], None] = tell) -> list[Proposal]:
    proposals = []
    while (proposal := outer.ask()) is not None:
        proposals.append(proposal)
        then(outer, proposal)
    return proposals


def errors_of(outer: OuterLoop) -> list[float]:
    outer._observations.refresh()
    frame = outer._experiment.lookup_data().df
    return [float(error) for error in frame[frame["metric_name"] == "J"]["sem"]]


def training_points(outer: OuterLoop) -> int:
    outer._observations.refresh()
    adapter = outer.posterior()._adapter("gp")
    assert adapter.outcomes == ["J"]
    model = adapter.generator.surrogate.model
    assert model.train_inputs[0].shape[-1] == len(SPACE.parameters())
    return int(model.train_inputs[0].shape[-2])


def test_all_trials_have_the_pooled_error_or_none_has_one(tmp_path: Path) -> None:
    outer = outer_loop(tmp_path, trials=LEAST_FREEDOM + 1)
    values: dict[int, dict[int, float]] = {}
    while (proposal := outer.ask()) is not None:
        tell(outer, proposal)
        values[proposal.index] = values_of(proposal.shape)
        errors = errors_of(outer)
        if len(values) <= LEAST_FREEDOM:
            assert all(math.isnan(error) for error in errors)
        else:
            assert errors == pytest.approx([pooled_error(values, SEEDS)] * len(values))
    assert outer.ranking()[0].from_model
    # They are derived from what the database holds, so a new process finds the same.
    assert errors_of(outer_loop(tmp_path, trials=LEAST_FREEDOM + 1)) == pytest.approx(errors)


def test_one_seed_leaves_the_noise_to_the_model(tmp_path: Path) -> None:
    outer = outer_loop(tmp_path, seeds=(0,))
    run(outer, lambda loop, proposal: loop.tell(proposal.index, {0: values_of(proposal.shape)[0]}, {}))
    assert all(math.isnan(error) for error in errors_of(outer))
    assert outer.ranking()[0].from_model


def test_a_stopped_trial_teaches_the_model_less_and_never_wins(tmp_path: Path) -> None:
    outer, stopped = outer_loop(tmp_path, trials=11), 7

    def then(loop: OuterLoop, proposal: Proposal) -> None:
        if proposal.index == stopped:
            # So high that it would win.
            loop.stop(stopped, Projection(5.0, 0.2))
        else:
            tell(loop, proposal)

    proposals = run(outer, then)
    assert training_points(outer) == len(proposals) == 11
    errors = errors_of(outer)
    assert errors[stopped] == pytest.approx(0.2) and errors[0] < 0.1
    assert stopped not in [row.index for row in outer.ranking()]
    assert len({repr(proposal.shape) for proposal in proposals}) == 11
    again = outer_loop(tmp_path, trials=11)
    assert again.finished() and errors_of(again) == pytest.approx(errors)


def test_gains_are_counted_from_the_sparse_arm_and_choose_the_same_trials(tmp_path: Path) -> None:
    shapes, objectives = [], []
    for name in ("final", "gain"):
        (tmp_path / name).mkdir()
        outer = outer_loop(tmp_path / name, objective=name, trials=9)
        shapes.append([proposal.shape for proposal in run(outer)])
        outer.ranking()
        objectives.append(outer._observations.objective())
    assert shapes[0][:6] == shapes[1][:6]
    assert objectives[1][0] == 0
    for index in range(6):
        assert objectives[1][index] == pytest.approx(objectives[0][index] - objectives[0][0])


def test_a_stopped_trials_projection_is_a_gain_where_gains_are_searched(tmp_path: Path) -> None:
    outer, plain = outer_loop(tmp_path, objective="gain", trials=8), {}
    while (proposal := outer.ask()) is not None:
        plain[proposal.index] = sum(values_of(proposal.shape).values()) / 2
        outer.stop(5, Projection(0.4, 0.1)) if proposal.index == 5 else tell(outer, proposal)
    for _ in range(2):  # looking twice must not take the sparse arm off twice
        outer.ranking()
        assert outer._observations.objective() == pytest.approx(
            {index: (0.4 if index == 5 else value) - plain[0] for index, value in plain.items()}
        )


@pytest.mark.parametrize("options", [{"budget": (16, 16)}, {"units": ("token",)}, {}], ids=["units", "budgets", "both"])
def test_the_full_space_is_searched_by_the_model(options: dict, tmp_path: Path) -> None:
    space = StudySpace(make_space("full", base=Shape(max_units=12), methods=("prefix", "shapley"), **options))
    search = SearchSettings(trials=8, sobol_trials=3, seeds=(0,))
    outer = OuterLoop("full", space, tmp_path / "study.db", search)
    origins = []
    while (proposal := outer.ask()) is not None:
        origins.append(proposal.origin)
        bonus = 0.5 * (proposal.shape.unit == "token") + proposal.shape.budget / 200
        outer.tell(proposal.index, {0: proposal.shape.weights["shapley"] + bonus}, {})
    assert origins[-2:] == ["model"] * 2


def test_nothing_matters_where_all_trials_are_alike(tmp_path: Path) -> None:
    outer = outer_loop(tmp_path, trials=8)
    run(outer, lambda loop, proposal: loop.tell(proposal.index, {0: 1.0, 1: 1.0}, {}))
    assert outer.posterior().sensitivity() == {} and len(outer.ranking()) == 8


@pytest.mark.parametrize("limits", [{"kl_nats": 9.0}, {"kl_over_sparse": 2.25}], ids=["absolute", "over sparse"])
def test_winner_keeps_the_constraint_and_arms_that_break_it_come_last(limits: dict, tmp_path: Path) -> None:
    # Both allow 9 nats: the sparse arm has 4.
    outer = outer_loop(tmp_path, constraints=ConstraintSettings(**limits), trials=12)
    shapes = {proposal.index: proposal.shape for proposal in run(outer)}
    ranking = outer.ranking()
    assert ranking[0].feasible and kl_of(shapes[ranking[0].index]) <= 9.3
    prefix = next(row for row in ranking if row.arm == "prefix")
    assert not prefix.feasible and prefix.mean > ranking[0].mean
    feasible = [row.feasible for row in ranking]
    assert feasible == sorted(feasible, reverse=True)
    # Proposals close in on the limit: all of the model's are near what it allows.
    assert 0.3 < shapes[ranking[0].index].weights["prefix"]


def test_a_broken_certificate_can_be_a_constraint(tmp_path: Path) -> None:
    outer = outer_loop(tmp_path, constraints=ConstraintSettings(certificate_error=1e-3))

    def then(loop: OuterLoop, proposal: Proposal) -> None:
        error = 0.5 * proposal.shape.weights["prefix"] ** 2
        loop.tell(proposal.index, values_of(proposal.shape), {"certificate_error": error})

    run(outer, then)
    ranking = outer.ranking()
    assert not next(row for row in ranking if row.arm == "prefix").feasible
    assert next(row for row in ranking if row.arm == "sparse").feasible


def test_limit_over_a_sparse_arm_that_failed_is_refused_with_a_remedy(tmp_path: Path) -> None:
    outer = outer_loop(tmp_path, constraints=ConstraintSettings(kl_over_sparse=2.0))
    for _ in range(3):
        proposal = outer.ask()
        assert proposal is not None
        outer.fail(proposal.index) if proposal.arm == "sparse" else tell(outer, proposal)
    with pytest.raises(ShapetuneError, match=r"(?s)sparse arm failed.*search\.constraints\.kl_nats"):
        run(outer)


def earlier_trials() -> list[EarlierTrial]:
    found = []
    for name, prefix, shapley in (("sparse", 0.0, 0.0), ("prefix", 1.0, 0.0), ("old 2", 0.5, 0.5), ("old 3", 0.7, 0.1)):
        tried = SPACE.decode({"weight_prefix": prefix, "weight_shapley": shapley, "gae_lambda": 0.8})
        found.append(EarlierTrial(name, tried, values_of(tried.shape), {"kl_nats": kl_of(tried.shape)}))
    return found


def test_earlier_trials_are_data_and_baselines_but_no_trials_of_this_study(tmp_path: Path) -> None:
    outer = outer_loop(tmp_path, earlier_trials(), trials=4)
    proposals = run(outer)
    # Shapley alone is the one baseline that the other study lacks; four trials fill the space well enough.
    assert [proposal.arm for proposal in proposals][:1] == ["shapley"]
    # A proposal that comes too near to a trial gives its place to a space-filling one.
    assert [proposal.origin for proposal in proposals][:2] == ["baseline", "model"]
    assert training_points(outer) == 8
    assert {row["arm"]: row["origin"] for row in outer.trials()}["old 2"] == "earlier study"
    assert outer.ranking()[0].arm == "prefix" or outer.ranking()[0].index >= 4
    again = outer_loop(tmp_path, earlier_trials(), trials=4)
    assert again.finished() and len(again.trials()) == 8


def test_first_arms_come_after_the_baselines_and_are_trials(tmp_path: Path) -> None:
    point = {"weight_prefix": 0.25, "weight_shapley": 0.5, "gae_lambda": 0.7}
    arms = [BaselineArm("other 7", point)]
    outer = outer_loop(tmp_path, (), arms, trials=5)
    proposals = run(outer)
    assert [proposal.arm for proposal in proposals][:4] == ["sparse", "prefix", "shapley", "other 7"]
    assert proposals[3].origin == "earlier study" and proposals[3].candidate == SPACE.decode(point)
    assert len(proposals) == 5


def test_sensitivity_names_the_parameter_that_matters_and_its_direction(tmp_path: Path) -> None:
    outer = outer_loop(tmp_path, trials=12)
    assert outer.posterior().sensitivity() == {}
    run(outer)
    found = outer.posterior().sensitivity()
    assert set(found) == {"weight_prefix", "weight_shapley", "gae_lambda"}
    assert found["weight_prefix"]["total"] > 0.6 and found["weight_prefix"]["direction"] == 1
    assert found["gae_lambda"]["total"] < 0.2
    assert all(0 <= each["first"] <= 1 and each["total"] >= 0 for each in found.values())


def test_a_long_reason_fits_the_databases_column(tmp_path: Path) -> None:
    outer = outer_loop(tmp_path)
    proposal = outer.ask()
    assert proposal is not None
    outer.fail(proposal.index, "x" * 5_000)
    assert outer.trials()[0]["status"] == "abandoned"


def test_saasbo_without_its_extra_is_refused_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.search.generation_strategy.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"(?s)jax and numpyro.*shapetune\[saasbo\]"):
        outer_loop(tmp_path, model="saasbo")


def test_saasbo_proposes_and_ranks(tmp_path: Path) -> None:
    pytest.importorskip("numpyro")
    outer = outer_loop(tmp_path, model="saasbo", trials=7)
    proposals = run(outer)
    assert [proposal.origin for proposal in proposals][-1] == "model"
    assert (outer.ranking()[0].from_model and outer.ranking()[0].arm == "prefix") or proposals[-1].shape.weights[
        "prefix"
    ] > 0.8


def test_every_methods_name_can_stand_in_a_constraint(tmp_path: Path) -> None:
    # Ax reads constraints with sympy, which takes some names for its own.
    methods = tuple(sorted(set(METHODS) - {"sparse"}))
    space = StudySpace(make_space("credit_mix", base=Shape(), methods=methods, balance=(0.0, 0.9)))
    outer = OuterLoop("all", space, tmp_path / "study.db", SearchSettings(trials=len(methods) + 2, sobol_trials=1))
    proposals = []
    while (proposal := outer.ask()) is not None:
        proposals.append(proposal)
        outer.tell(proposal.index, {0: 0.0, 1: 0.1 * len(proposals)}, {})
    assert len(proposals) == len(methods) + 2
    assert all(sum(p.shape.active_methods().values()) == pytest.approx(1) for p in proposals)


def test_beyond_fifty_trials_each_proposal_takes_fewer_evaluations() -> None:
    """Each costs in proportion to the trials; what fills the space for starting points stays as it is."""

    def counts(discrete: int, trials: int) -> dict[str, int]:
        options: dict[str, int] = optimizer_options(discrete, trials)["optimizer_kwargs"]["options"]
        return options

    assert counts(1, 0) == counts(1, 50) == {"maxiter": 60, "n_burnin": 500, "n_thinning": 8}
    assert counts(1, 150) == {"maxiter": 20, "n_burnin": 500, "n_thinning": 8}
    assert counts(1, 100_000)["maxiter"] == 1
    assert counts(10_000, 100) == {"maxiter_continuous": 15, "maxiter_alternating": 8, "maxiter_discrete": 2}


def test_the_strategy_is_told_how_many_trials_there_are(tmp_path: Path) -> None:
    outer = outer_loop(tmp_path, trials=6)
    run(outer)
    strategy = outer._client._generation_strategy_or_choose()
    fit_effort(strategy, 1, 300)
    [spec] = strategy.nodes_by_name["GP"].generator_specs
    assert spec.generator_gen_kwargs["model_gen_options"]["optimizer_kwargs"]["options"]["maxiter"] == 10
