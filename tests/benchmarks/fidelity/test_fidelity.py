"""Credit fidelity: the known truths, the areas and the correlations against slow loops, and one small whole."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

from benchmarks.common.configs import measured_config
from benchmarks.fidelity import __main__ as whole
from benchmarks.fidelity import credits, learning
from benchmarks.fidelity.agreement import agreement, correlations
from benchmarks.fidelity.credits import find_credit, over_units, sample
from benchmarks.fidelity.curves import find_areas, insertion_curves, orders
from benchmarks.fidelity.field import Contender, contenders, served
from benchmarks.fidelity.known_effects import KnownEffects, word_effects
from benchmarks.fidelity.measure import against_exact, against_truth, exact_shapley, measure_curves
from benchmarks.fidelity.taught import explained, teach, thinned
from benchmarks.fidelity.training import LAMBDAS, lessons, lessons_file
from benchmarks.fidelity.worlds import SEED, WORLDS, in_world
from benchmarks.papers import runs as kept
from benchmarks.papers.field import BUDGET, ENTRANTS, TUNED, candidates
from benchmarks.papers.runs import COMPLETED, saved_runs
from pipeline.config.load import parse_config
from pipeline.tasks.models.calibration import own_samples
from pipeline.trainers.base import Task
from shaping import METHODS, CausalRewardModel, Rollouts, Shape
from shaping.credit.permutations import with_reverses
from shaping.method_names import METHOD_NAMES
from shaping.scoring import score_responses
from shaping.variants import Variants
from tests.support.games import by_orders, by_subsets
from tests.support.models.tiny_models import (
    BOS,
    EOS,
    GameRewardModel,
    additive_game,
    make_rollouts,
    members_of_all,
    random_game,
)
from tests.support.models.tiny_models import tiny_tokenizer as tokenizer
from tests.support.models.tiny_task import tiny_task
from tests.support.paper_runs import run

EFFECTS = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 1.0, -2.0, 0.5, 0.0, 3.0])
# Tokens 3 and 4 turn what follows round, and so does 8.
FLIPS = torch.tensor([False] * 3 + [True] * 2 + [False] * 3 + [True, False])
BASE = 0.4


def slow_score(ids: list[int]) -> float:
    """Return what the flipped reward of a response is, one token after the other."""
    total = BASE
    for place, token in enumerate(ids):
        sign = -1.0 if place > 0 and bool(FLIPS[ids[place - 1]]) else 1.0
        total += sign * float(EFFECTS[token])
    return total


def slow_table(ids: list[int]) -> Tensor:
    """Return the score of every coalition of a response, by its binary number."""
    rows = members_of_all(len(ids)).tolist()
    return torch.tensor([slow_score([ids[i] for i, there in enumerate(row) if there]) for row in rows])


RESPONSES = [[3, 5, 6, 9], [9, 8, 7, 5, 6, 3, 3, 9], [5, 3, 4, 9, 6, 8], [7], [4, 4, 4], [6, 5, 8, 9, 9, 9, 9]]


def test_a_flipped_reward_is_what_a_loop_over_its_tokens_says() -> None:
    model, rollouts = KnownEffects(EFFECTS, FLIPS, BASE), make_rollouts([[BOS]] * len(RESPONSES), RESPONSES)
    for row, ids in enumerate(RESPONSES):
        keep = torch.zeros(2 ** len(ids), rollouts.response_ids.shape[1], dtype=torch.bool)
        keep[:, : len(ids)] = members_of_all(len(ids))
        found = model.score(Variants(rollouts, torch.full((len(keep),), row), keep)).values
        assert found == pytest.approx(slow_table(ids).numpy(), abs=1e-5)
        along = [slow_score(ids[:count]) for count in range(len(ids) + 1)]
        assert model.prefix_scores(rollouts)[row, : len(ids) + 1].tolist() == pytest.approx(along, abs=1e-5)
    assert model.prefix_scores(rollouts)[3, 1:].unique().numel() == 1


def test_the_closed_form_of_flipped_effects_is_the_mean_over_all_orders() -> None:
    model, rollouts = KnownEffects(EFFECTS, FLIPS, BASE), make_rollouts([[BOS]] * len(RESPONSES), RESPONSES)
    closed = model.shapley_values(rollouts)
    for row, ids in enumerate(RESPONSES):
        slow = by_orders(slow_table(ids)) if len(ids) < 7 else by_subsets(slow_table(ids))
        assert closed[row, : len(ids)].numpy() == pytest.approx(slow.numpy(), abs=1e-6)
        assert not closed[row, len(ids) :].any()


def test_integrated_gradients_of_a_sum_are_the_effects_less_their_mean() -> None:
    model = KnownEffects(EFFECTS, torch.zeros_like(FLIPS), BASE)
    rollouts = make_rollouts([[BOS]], [[5, 9, 6]])
    found = model.integrated_gradients(rollouts, rollouts.response_mask, 4)
    assert found[0].tolist() == pytest.approx((EFFECTS[[5, 9, 6]] - EFFECTS.mean()).tolist(), abs=1e-5)


def test_only_words_of_enough_letters_have_an_effect_and_flippers_have_none() -> None:
    model = word_effects(tokenizer(), ("the", "a"), 3, seed=0)
    words = tokenizer().convert_ids_to_tokens(list(range(len(tokenizer()))))
    worth = {words[token] for token in model.effects.nonzero().squeeze(1).tolist()}
    assert "Ġfilm" in worth and "Ġthe" not in worth and "Ġa" not in worth
    assert all(word.startswith("Ġ") and word[1:].isalpha() and len(word) > 3 for word in worth)
    assert {words[token] for token in model.flippers.nonzero().squeeze(1).tolist()} == {"Ġthe", "Ġa"}


def known_task(**changes: object) -> Task:
    """Return the tiny task with a sum of effects of every token, some of them flipped."""
    size = len(tokenizer())
    draws = torch.randn(size, generator=torch.Generator().manual_seed(4))
    flips = torch.rand(size, generator=torch.Generator().manual_seed(5)) < 0.2
    options = {"effects": draws, "flippers": torch.zeros(size, dtype=torch.bool), "base": 0.7}
    if changes.pop("flipped", False):
        options["flippers"] = flips
    truth = KnownEffects(**options)
    return tiny_task(reward_model=truth, gold_model=truth)


def short(task: Task, tokens: int = 6) -> Rollouts:
    found = sample(task, 8, tokens, seed=1)
    assert 4 <= len(found) <= 8 and bool(found.response_mask.all())
    return found


def test_of_a_sum_of_effects_every_shapley_value_and_every_prefix_is_the_effect() -> None:
    task, base = known_task(), Shape(unit="token", budget=2**12, max_units=12)
    judged = against_truth(task, contenders(base), short(task))
    for method in ("prefix", "shapley", "owen", "kernel_shap"):
        assert judged[method].attributed.error == pytest.approx(0.0, abs=1e-5), method
        assert judged[method].attributed.correlation == pytest.approx(1.0), method
    # Integrated gradients begin at the vocabulary's mean effect, which is no token's affair.
    assert judged["gradient"].attributed.correlation == pytest.approx(1.0)
    assert (judged["lime"].attributed.correlation > 0.95).all()
    assert (judged["uniform"].attributed.correlation == 0).all()
    assert abs(judged["random"].attributed.correlation.mean()) < 0.5
    # Paid on the last token, what no token earned stands there too.
    assert judged["prefix"].paid.correlation.mean() < 1
    assert "attention" not in judged


def test_where_effects_flip_shapley_values_are_the_truth_and_increments_are_what_stands_there() -> None:
    task, base = known_task(flipped=True), Shape(unit="token", budget=2**12, max_units=12)
    judged = against_truth(task, contenders(base), short(task))
    for method in ("shapley", "kernel_shap", "owen"):
        assert judged[method].attributed.error == pytest.approx(0.0, abs=1e-5)
        assert judged[method].placed is not None and judged[method].placed.error.max() > 0.05
    prefix = judged["prefix"]
    assert prefix.placed is not None and prefix.placed.error == pytest.approx(0.0, abs=1e-5)
    assert prefix.attributed.error.max() > 0.05


def test_exact_values_on_a_network_are_the_mean_over_all_orders() -> None:
    task = tiny_task()
    rollouts = short(task, 5)
    found = exact_shapley(task, Shape(), rollouts)
    assert found.coalitions == 2**5
    model = task.reward_model
    for row in range(len(rollouts)):
        variants = Variants(rollouts, torch.full((32,), row), members_of_all(5))
        slow = by_orders(model.score(variants).values)
        assert found.values[row].numpy() == pytest.approx(slow.numpy(), abs=1e-4)
    judged = against_exact(task, contenders(Shape(unit="token")), rollouts, found)
    assert judged["shapley"].attributed.error == pytest.approx(0.0, abs=1e-4)
    assert set(judged) == set(METHOD_NAMES)


def test_areas_of_a_hand_made_order_are_those_of_a_loop() -> None:
    model, credit = GameRewardModel(random_game(5, seed=2)), torch.tensor([[0.3, -0.1, 0.7, 0.2, 0.0]])
    order, table = [2, 0, 3, 4, 1], model.values.tolist()
    come = [table[sum(1 << i for i in order[:count])] for count in range(6)]
    gone = [table[sum(1 << i for i in order[count:])] for count in range(6)]
    slow = [sum((a + b) / 2 / 5 for a, b in pairwise(each)) for each in (come, gone)]
    found = find_areas(model, model.rollouts(), credit, 2, torch.Generator().manual_seed(0))
    assert [float(found.insertion), float(found.deletion)] == pytest.approx(slow, abs=1e-6)
    assert float(found.between) == pytest.approx(slow[0] - slow[1], abs=1e-6)


def test_equal_credit_stands_together_in_random_order_and_each_draw_with_its_reverse() -> None:
    credit = torch.tensor([[1.0, 1.0, 1.0, 5.0, 0.0, 0.0]]).expand(3, -1)
    found = orders(credit, 40, torch.Generator().manual_seed(0))
    assert (found[..., 0] == 3).all()
    assert found[..., 1:4].sort().values.unique(dim=1).tolist() == [[[0, 1, 2]]] * 3
    assert len({tuple(row) for row in found[0].tolist()}) > 6
    # Where nothing is told apart, a draw and its reverse cancel: no credit is worth exactly a random order.
    model = GameRewardModel(random_game(6, seed=3))
    nothing = find_areas(model, model.rollouts(), torch.zeros(1, 6), 4, torch.Generator().manual_seed(1))
    assert float(nothing.between) == pytest.approx(0.0, abs=1e-6) and float(nothing.insertion) != 0


def test_over_all_orders_both_areas_have_one_mean() -> None:
    model = GameRewardModel(random_game(4, seed=7))
    every = torch.tensor(list(permutations(range(4))))[None]
    curves = insertion_curves(model, model.rollouts(), with_reverses(every))[0].view(-1, 2, 5)
    assert curves[:, 0].mean(dim=0).tolist() == pytest.approx(curves[:, 1].mean(dim=0).tolist(), abs=1e-5)
    many = find_areas(model, model.rollouts(), torch.zeros(1, 4), 4_000, torch.Generator().manual_seed(0))
    assert float(many.insertion) == pytest.approx(
        float(curves[:, 0, 1:-1].sum(dim=1).mean() + curves[0, 0, 0] / 2 + curves[0, 0, -1] / 2) / 4, abs=0.02
    )


def test_no_order_has_more_area_than_that_of_the_true_effects() -> None:
    effects = torch.randn(7, generator=torch.Generator().manual_seed(3))
    model, generator = GameRewardModel(additive_game(effects, 0.3)), torch.Generator().manual_seed(0)
    best = find_areas(model, model.rollouts(), effects[None], 2, generator)
    for _ in range(60):
        other = find_areas(model, model.rollouts(), torch.randn(1, 7, generator=generator), 2, generator)
        assert float(other.between) <= float(best.between) + 1e-5
        assert float(other.insertion) <= float(best.insertion) + 1e-5
        assert float(other.deletion) >= float(best.deletion) - 1e-5


def test_methods_that_know_the_effects_have_the_best_area_and_controls_that_of_chance() -> None:
    task = known_task()
    found = measure_curves(task, contenders(Shape(unit="token", budget=2**12, max_units=12)), short(task))
    between = {name: each.areas.between for name, each in found.ranked.items()}
    for name, area in between.items():
        assert (area <= between["prefix"] + 1e-5).all(), name
    assert torch.allclose(between["shapley"], between["prefix"], atol=1e-5)
    assert (between["prefix"] > 0).all()
    assert between["uniform"].abs().max() < 1e-5
    assert abs(float(between["random"].mean())) < float(between["prefix"].mean()) / 2
    assert torch.allclose(found.gaps, task.reward_model.worth(short(task)).sum(dim=1), atol=1e-5)


def test_a_spans_value_counts_evenly_for_its_tokens_and_is_paid_at_its_end() -> None:
    paid = torch.tensor([[0.0, 3.0, 0.0, 0.0, 6.0, 0.0]])
    index = torch.tensor([[0, 0, 1, 1, 1, -1]])
    assert over_units(paid, index).tolist() == [[1.5, 1.5, 2.0, 2.0, 2.0, 0.0]]
    task, shape = known_task(), Shape(weights={"shapley": 1.0}, unit="span", max_span=3)
    rollouts = short(task)
    found = find_credit(Contender("shapley", shape), task.reward_model, task.tokenizer, rollouts)
    worth = task.reward_model.worth(rollouts)
    assert torch.allclose(found.paid.sum(dim=1), worth.sum(dim=1) + 0.7, atol=1e-5)
    assert torch.allclose(found.attributed.sum(dim=1), worth.sum(dim=1), atol=1e-5)
    assert (found.attributed != 0).sum() > (found.paid != 0).sum()
    sparse = find_credit(Contender("sparse", Shape()), task.reward_model, task.tokenizer, rollouts)
    assert torch.equal(sparse.attributed, sparse.paid) and not sparse.attributed[:, :-1].any()


def test_responses_with_a_special_token_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    said = make_rollouts([[BOS]] * 3, [[5, 6, 7], [5, BOS, 7], [8, 9, 5]])
    monkeypatch.setattr(credits, "own_samples", lambda *_: said)
    assert sample(tiny_task(), 8, 3, seed=1).response_ids.tolist() == [[5, 6, 7], [8, 9, 5]]


def test_correlations_are_scipys_and_credit_that_is_equal_everywhere_has_none() -> None:
    chooser = np.random.default_rng(0)
    ours, theirs = chooser.normal(size=(2, 5, 9))
    ours[1] = np.round(ours[1])
    assert correlations(ours, theirs) == pytest.approx([pearsonr(a, b)[0] for a, b in zip(ours, theirs, strict=True)])
    ranked = [spearmanr(a, b)[0] for a, b in zip(ours, theirs, strict=True)]
    assert correlations(ours, theirs, ranks=True) == pytest.approx(ranked)
    credit, truth = torch.tensor(ours), torch.tensor(theirs)
    credit[2], truth[3] = 0.25, 0.0
    found = agreement(credit, truth)
    # The response without a truth is left out; the credit without a difference counts 0.
    assert len(found.correlation) == 4 and found.correlation[2] == found.rank_correlation[2] == 0
    assert found.error[0] == pytest.approx(float((credit[0] - truth[0]).norm() / truth[0].norm()))


def test_contenders_have_the_shapes_of_the_papers_comparison() -> None:
    config = parse_config({"name": "t", "space": {"methods": ["prefix"]}, "shape": {"budget": BUDGET}}, "t")
    field = {each.method: each for each in contenders(config.base_shape())}
    assert list(field) == list(METHOD_NAMES) and set(field) == set(METHODS)
    for entrant in ENTRANTS:
        (method,) = entrant.weights
        (settings,) = candidates(entrant, config, tiny_task(), (0.8,))[:1]
        expected = settings.arm.shape.with_changes(balance=1.0, gae_lambda=field[method].shape.gae_lambda)
        assert field[method].shape == expected, entrant.name
    named = "|".join(sorted(each.entrant for each in field.values()))
    assert named == f"|LIME|R3HF|SCAR, token|SHAP|Shapley alone, span|attention alone|random|{TUNED}|uniform"
    assert field["gradient"].entrant == "" and field["owen"].balance == 0.5
    assert [each.method for each in served(list(field.values()), KnownEffects(EFFECTS, FLIPS))] == [
        name for name in METHOD_NAMES if name != "attention"
    ]


def test_worlds_begin_at_0_with_a_deviation_of_1_and_no_lesson_is_taken_for_another() -> None:
    for name in WORLDS:
        task = in_world(name, tiny_task(), 6)
        assert bool(task.reward_model.flippers.any()) is (name == "flipped_effects")
        assert task.gold_model is task.reward_model and task.reward_model.base != 0
        begun = score_responses(
            task.reward_model, own_samples(task.policy, task.train_prompts.to_ids(), 6, EOS, False, SEED)
        )
        assert float(begun.mean()) == pytest.approx(0.0, abs=1e-5) and float(begun.std()) == pytest.approx(
            1.0, abs=1e-5
        )
    config = parse_config({"name": "t", "space": {"methods": ["prefix"]}}, "t")
    field = contenders(config.base_shape())
    jobs = [each.job for world in WORLDS for each in lessons(world, field, (0, 1), config, "", "c")]
    assert len(set(jobs)) == len(jobs) == len(WORLDS) * len(METHODS) * 2 * len(LAMBDAS)


def test_a_network_that_was_taught_a_truth_knows_most_of_it() -> None:
    task = known_task()
    prompts = task.train_prompts.select(torch.arange(256) % len(task.train_prompts))
    texts = own_samples(task.policy, prompts.to_ids(), 6, task.eos_token_id, False, 0)
    missing = thinned(texts, torch.Generator().manual_seed(0))
    assert (missing.response_tokens[::2] == 6).all() and float(missing.response_tokens[1::2].float().mean()) < 5
    assert torch.equal(missing.response_ids[::2], texts.response_ids[::2])
    before, after = (
        explained(CausalRewardModel(teach(task.policy, task.gold_model, texts, epochs)), task.gold_model, texts)
        for epochs in (0, 80)
    )
    assert before < 0.1 and after > 0.5


@pytest.mark.slow
@pytest.mark.usefixtures("one_process")
def test_fidelity_is_measured_and_its_runs_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "measured_config", lambda _, changes: measured_config("smoke", changes))
    monkeypatch.setattr(whole, "runs_file", lambda label: tmp_path / f"papers-{label}.csv")
    methods = ("sparse", "prefix", "shapley")
    monkeypatch.setattr(whole, "contenders", lambda base: [each for each in contenders(base) if each.method in methods])
    # The taught world is left out: its network takes a minute to teach.
    monkeypatch.setattr(whole, "WORLDS", {name: world for name, world in WORLDS.items() if not world.taught})
    sizes = whole.Sizes(6, 4, 1, (*whole.CHANGES, "ppo.steps=2", "evaluation.prompts=4"), tmp_path)
    claims, parts, details = whole.measure(sizes, 1, "c")
    named = {claim.name: claim for claim in claims}
    assert named["fidelity.known_effects.correlation.prefix"].value == pytest.approx(1.0, abs=1e-5)
    assert named["fidelity.predicts_learning_spearman"].n == len(methods)
    for name in ("exact_shapley.correlation.shapley", "deletion_area.prefix", "flipped_effects.error.sparse"):
        assert f"fidelity.{name}" in named
    assert len(parts) == 2 + 2 * len(whole.WORLDS) and all(math.isfinite(claim.value) for claim in claims)
    # No run was lost.
    assert parts[3].count(" | 0 |") == len(methods)
    for world in whole.WORLDS:
        made = saved_runs(lessons_file(world, tmp_path)).values()
        assert len(made) == len(methods) * len(LAMBDAS) and {each.state for each in made} == {COMPLETED}
        assert max(each.largest_error for each in made) < 1e-4
    assert details["shapes"]["prefix"]["weights"] == {"prefix": 1.0}

    def again(*_: object) -> None:
        raise AssertionError("made twice")

    monkeypatch.setattr(kept, "each_done", again)
    header = (tmp_path / "fidelity-known_effects.csv").read_text().splitlines()[0]
    runs = [
        replace(run(each, seed, float(place)), job=f"{each}{seed}")
        for place, each in enumerate((TUNED, "Shapley alone, span", "R3HF"))
        for seed in (0, 1, 200, 201)
    ]
    (tmp_path / "papers-sentiment.csv").write_text("\n".join([header, *(each.line() for each in runs)]) + "\n")
    more, texts, _ = whole.measure(sizes, 1, "c")
    assert texts[: len(parts)] == parts and len(texts) == len(parts) + 1
    assert "R3HF" in texts[-1] and len(more) > len(claims)
    assert learning.compared(contenders(Shape()), list(saved_runs(tmp_path / "papers-sentiment.csv").values()))
