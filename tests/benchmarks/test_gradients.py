"""Gradients of shapes: expectations by enumeration, moments against slow loops and known distributions, one whole."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from benchmarks.fidelity.field import contenders
from benchmarks.fidelity.learning import Relation
from benchmarks.gradients import measure as measuring
from benchmarks.gradients import tables
from benchmarks.gradients.estimators import (
    TRUTH,
    Credited,
    Key,
    gradients,
    group_gradients,
    less_others,
    pay,
    rewards_to_come,
)
from benchmarks.gradients.field import Row, rows_of
from benchmarks.gradients.learning import predicted
from benchmarks.gradients.moments import Measured, Quality, gram, mixed, qualities
from benchmarks.gradients.stage import Stage
from benchmarks.papers.field import ENTRANTS, REWARD_MODEL, TUNED
from benchmarks.papers.runs import COMPLETED, Run
from pipeline.config.load import parse_config
from pipeline.config.schema import StudyConfig
from pipeline.study.folder import what_decides
from pipeline.trainers.base import Prompts
from pipeline.trainers.ppo.trainer import PPOTrainer
from shaping import Shape
from shaping.method_names import METHOD_NAMES
from shaping.shaper import Shaper
from tests.support.models.tiny_models import BOS, EOS, make_rollouts, tiny_policy
from tests.support.models.tiny_task import ending_policy, tiny_task, tiny_trainer

VOCABULARY, LENGTH = 8, 3
EXACT = {"unit": "token", "max_units": 12, "estimator": "exact"}


def few_words_trainer(**sampling: object) -> PPOTrainer:
    """Return a trainer whose policy has few enough responses to write them all."""
    prompts = Prompts.of_ids([[BOS]])
    task = tiny_task(policy=tiny_policy(vocabulary=VOCABULARY), train_prompts=prompts, held_out_prompts=prompts)
    return tiny_trainer(task=task, sampling={"response_tokens": LENGTH, **sampling})


def expected_gradients(trainer: PPOTrainer, shapes: dict[str, Shape]) -> dict[Key, Tensor]:
    """Return the expectation of every estimator over all responses, at lambda 1."""
    words = [word for word in range(VOCABULARY) if word != EOS]
    responses = [list(each) for each in product(words, repeat=LENGTH)]
    rollouts = make_rollouts([[BOS]] * len(responses), responses)
    chances = trainer.actor(rollouts).log_probs.detach().sum(dim=1).exp()
    assert float(chances.sum()) == pytest.approx(1, abs=1e-5)
    task = trainer.task
    shapers = {name: Shaper(shape, task.reward_model, task.tokenizer) for name, shape in shapes.items()}
    to_come = rewards_to_come(pay(trainer, shapers, rollouts), rollouts.response_mask, [1.0])
    # Gradients are means over responses; here each counts as often as the policy writes it.
    weighted = {key: each * chances[:, None] * len(responses) for key, each in to_come.items()}
    return gradients(trainer, rollouts, weighted)


def test_enumerated_expectations_show_who_is_a_baseline_and_who_is_not() -> None:
    shapes = {name: Shape(weights={name: 1.0}) for name in ("sparse", "prefix", "uniform")}
    shapes["shapley"] = Shape(weights={"shapley": 1.0}, **EXACT)
    found = expected_gradients(few_words_trainer(), shapes)
    true = found["sparse", 1.0]
    length = float(true.norm())
    assert length > 0.01
    # Increments telescope to what was known before a token: a baseline. So is the estimate that is called true.
    assert float((found["prefix", 1.0] - true).norm()) < 1e-4 * length
    assert float((found[TRUTH] - true).norm()) < 1e-4 * length
    # A player's value knows what comes later, and an even share pays early tokens for late ones: both are biased.
    for biased in ("shapley", "uniform"):
        assert float((found[biased, 1.0] - true).norm()) > 0.02 * length, biased


def test_the_true_gradient_is_that_of_the_expected_score() -> None:
    trainer = few_words_trainer()
    found = expected_gradients(trainer, {"sparse": Shape(weights={"sparse": 1.0})})["sparse", 1.0]
    words = [word for word in range(VOCABULARY) if word != EOS]
    responses = [list(each) for each in product(words, repeat=LENGTH)]
    rollouts = make_rollouts([[BOS]] * len(responses), responses)
    scores = Shaper(Shape(), trainer.task.reward_model, trainer.task.tokenizer).scores(rollouts)
    expected = (trainer.actor(rollouts).log_probs.sum(dim=1).exp() * scores.clone()).sum()
    parameters = list(trainer.actor.policy.parameters())
    direct = torch.cat([part.flatten() for part in torch.autograd.grad(expected, parameters)])
    torch.testing.assert_close(found, direct, atol=1e-5, rtol=1e-3)


def test_others_are_taken_off_place_by_place() -> None:
    torch.manual_seed(0)
    values, mask = torch.randn(5, 4), torch.arange(4)[None] < torch.tensor([4, 2, 3, 4, 1])[:, None]
    mask[:, 3] = torch.tensor([True, False, False, False, False])
    found = less_others(values, mask)
    for row in range(5):
        for place in range(4):
            others = [float(values[other, place]) for other in range(5) if other != row and mask[other, place]]
            expected = float(values[row, place]) - (sum(others) / len(others) if others else 0.0)
            assert float(found[row, place]) == pytest.approx(expected if mask[row, place] else 0.0, abs=1e-6)


def test_rewards_to_come_at_lambda_one_and_below() -> None:
    rewards, mask = torch.tensor([[1.0, 2.0, 4.0], [3.0, 5.0, 0.0]]), torch.tensor([[True] * 3, [True, True, False]])
    known = torch.tensor([[0.0, 0.5, 1.0], [0.0, 0.25, 9.0]])
    credited = Credited({"prefix": rewards}, rewards.sum(dim=1), known)
    found = rewards_to_come(credited, mask, [1.0, 0.5])
    assert found["prefix", 1.0].tolist() == [[7, 6, 4], [8, 5, 0]]
    assert found["prefix", 0.5].tolist() == [[3, 4, 4], [5.5, 5, 0]]
    assert found[TRUTH].tolist() == [[7, 6.5, 6], [8, 7.75, 0]]


def test_payment_is_found_in_batches_of_training_and_sums_to_the_score_with_its_penalty() -> None:
    sampling = {"stop_at_eos": True, "missing_eos_penalty": 0.5, "response_tokens": 6}
    trainer = tiny_trainer(task=tiny_task(policy=ending_policy()), sampling=sampling)
    rollouts, _ = trainer.sample(trainer.task.train_prompts, torch.Generator().manual_seed(0))
    shapes = {"sparse": Shape(weights={"sparse": 1.0}), "prefix": Shape(weights={"prefix": 1.0})}
    sizes: list[int] = []

    class Noting(Shaper):
        def shaped(self, rollouts, scores=None, adjustment=None):  # type: ignore[no-untyped-def]
            sizes.append(len(rollouts))
            return super().shaped(rollouts, scores, adjustment)

    task = trainer.task
    paid = pay(
        trainer, {name: Noting(each, task.reward_model, task.tokenizer) for name, each in shapes.items()}, rollouts
    )
    assert sizes == [5, 5, 3, 3]
    plain = Shaper(shapes["sparse"], task.reward_model, task.tokenizer).scores(rollouts)
    adjustment = trainer.missing_eos_adjustment(rollouts)
    assert adjustment is not None and 0 < int((adjustment < 0).sum()) < len(rollouts)
    torch.testing.assert_close(paid.scores, plain + adjustment)
    for rewards in paid.rewards.values():
        torch.testing.assert_close(rewards.sum(dim=1), paid.scores, atol=1e-5, rtol=1e-5)


def drawn(means: Tensor, deviations: Tensor, groups: int, group: int, seed: int = 0) -> Tensor:
    """Return mean gradients of groups: ``E x J x P``."""
    torch.manual_seed(seed)
    noise = torch.randn(len(means), groups, means.shape[1]) * deviations[:, None, None] / group**0.5
    return means[:, None] + noise


def test_products_are_those_of_a_slow_loop_whatever_the_blocks() -> None:
    torch.manual_seed(1)
    given = torch.randn(3, 4, 11)
    found = gram(given, block=4)
    for e, j, f, l in product(range(3), range(4), range(3), range(4)):  # noqa: E741
        assert float(found[e, j, f, l]) == pytest.approx(float(given[e, j] @ given[f, l]), abs=1e-5)


def test_mixtures_are_judged_as_if_their_gradients_had_been_made() -> None:
    torch.manual_seed(2)
    given = torch.randn(3, 5, 40) + 1
    shares = torch.tensor([[1.0, 0.0, 0.0], [0.25, 0.0, 0.75]])
    made = torch.einsum("me,ejp->mjp", shares, given)
    torch.testing.assert_close(mixed(gram(given), shares.double()), gram(made), atol=1e-4, rtol=1e-5)


def test_known_distributions_are_found_again() -> None:
    size, group, batch = 400, 8, 4
    true = torch.zeros(size)
    true[0] = 1.0
    biased = torch.zeros(size)
    biased[:2] = torch.tensor([0.6, 0.8])
    given = drawn(torch.stack([true, true, 3 * true, biased]), torch.tensor([0.05, 0.9, 0.6, 0.2]), 200, group)
    exact, usual, scaled, other = qualities(gram(given), truth=0, rival=1, group=group, batch=batch)
    assert exact.cosine.value == pytest.approx(1, abs=1e-9)
    assert usual.noise.value == pytest.approx(size * 0.81, rel=0.05) and usual.cosine.value == pytest.approx(1, abs=0.1)
    # Length is no matter: noise is measured against it.
    assert scaled.noise.value == pytest.approx(size * 0.36 / 9, rel=0.05)
    assert other.noise.value == pytest.approx(size * 0.04, rel=0.05)
    for found, cosine in ((scaled, 1.0), (other, 0.6)):
        assert found.cosine.value == pytest.approx(cosine, abs=0.03)
        expected = cosine / (1 + found.noise.value / batch) ** 0.5
        assert found.alignment.value == pytest.approx(expected, abs=0.02)
    assert usual.advantage.value == 1 and usual.advantage.low == usual.advantage.high == 1
    assert scaled.advantage.value == pytest.approx(scaled.alignment.value / usual.alignment.value)
    # Without bias but with noise: a single batch does not point where the expectation does.
    cosines = torch.nn.functional.cosine_similarity(
        drawn(3 * true[None], torch.tensor([0.6]), 2000, batch)[0], true, dim=1
    )
    assert scaled.alignment.value == pytest.approx(float(cosines.mean()), abs=0.02)


def test_intervals_are_the_jackknife_of_a_slow_loop() -> None:
    given, group, batch = drawn(torch.ones(2, 30), torch.tensor([0.5, 2.0]), 6, 4), 4, 2

    def alignment(gradients: Tensor) -> float:
        groups, total, own = gradients.shape[1], 0.0, 0.0
        truths = lengths = 0.0
        for j, l in product(range(groups), repeat=2):  # noqa: E741
            if j == l:
                own += float(gradients[1, j] @ gradients[1, j]) / groups
                continue
            total += float(gradients[1, j] @ gradients[0, l]) / (groups * (groups - 1))
            truths += float(gradients[0, j] @ gradients[0, l]) / (groups * (groups - 1))
            lengths += float(gradients[1, j] @ gradients[1, l]) / (groups * (groups - 1))
        return total / math.sqrt(truths) / math.sqrt(lengths + (own - lengths) * group / batch)

    without = [alignment(given[:, [j for j in range(6) if j != left]]) for left in range(6)]
    mean = sum(without) / 6
    error = math.sqrt(5 / 6 * sum((each - mean) ** 2 for each in without))
    found = qualities(gram(given), truth=0, rival=0, group=group, batch=batch)[1].alignment
    assert found.value == pytest.approx(alignment(given), abs=1e-5)
    # Student's t with five degrees of freedom.
    assert found.high - found.value == pytest.approx(2.5706 * error, rel=1e-3)


def test_an_expectation_that_the_noise_hides_has_no_number() -> None:
    # Groups that contradict each other: their product says that the squared length is negative.
    given = torch.stack([torch.ones(3, 6), torch.ones(3, 6) * torch.tensor([1.0, -1.0, 0.5])[:, None]])
    seen, hidden = qualities(gram(given), truth=0, rival=0, group=4, batch=4)
    assert seen.cosine.value == pytest.approx(1) and math.isnan(hidden.cosine.value) and math.isnan(hidden.noise.value)
    # How far a batch's gradient agrees is known all the same.
    assert not math.isnan(hidden.alignment.value)
    stage = Stage(0, {Row("random", 1.0, {}): hidden, Row(TUNED, 1.0, {"sparse": 1.0}): seen}, 8, 1.0)
    names = {claim.name for claim in tables.claims("t", 3, [stage])}
    assert names == {
        "gradients.t.alignment_0.random.lambda_1",
        "gradients.t.cosine_0.sparse.lambda_1",
        "gradients.t.alignment_0.sparse.lambda_1",
    }
    told = tables.text("t", 4, [stage], Relation("alignment", "final J", math.nan, math.nan, math.nan, 2))
    assert "| random | - | - |" in told and "Spearman" not in told and "nan" not in told


def test_rows_are_the_comparisons_entrants_at_equal_scale_and_what_it_leaves_out() -> None:
    rows = {row.name: row for row in rows_of(METHOD_NAMES, [1.0])}
    entrants = {each.name for each in ENTRANTS if each.reward_scale == 1} - {"sparse, value head"}
    assert entrants == set(rows)
    assert rows["SCAR, span"].shares == {"shapley": 0.5, "sparse": 0.5} and rows["R3HF"].shares == {"prefix": 1.0}
    assert rows[TUNED].is_usual and rows[TUNED].shown == "sparse" and not rows["R3HF"].is_usual
    assert "ABC" not in {row.name for row in rows_of(["sparse", "prefix", "shapley"], [1.0])}
    lambdas = [(row.name, row.gae_lambda) for row in rows_of(["sparse", "prefix"], [0.6, 1.0])]
    assert lambdas == [(TUNED, 0.6), (TUNED, 1.0), ("R3HF", 0.6), ("R3HF", 1.0)]


@pytest.mark.parametrize(("noise", "cosine"), [(100.0, 0.8), (30.0, 0.99), (500.0, 0.9)])
def test_the_batch_from_which_the_unbiased_estimator_is_better_is_where_both_align_alike(
    noise: float, cosine: float
) -> None:
    def quality(cosine: float, noise: float) -> Quality:
        return Quality(Measured(cosine, cosine, cosine), *[Measured(noise, noise, noise)] * 3)

    usual = quality(1.0, 400.0)
    said = tables.better_beyond(quality(cosine, noise), usual)
    if cosine**2 * 400 <= noise:
        assert said == "1"
        return
    size = int(said.replace(",", ""))
    ours, theirs = (each / (1 + wide / size) ** 0.5 for each, wide in ((cosine, noise), (1.0, 400.0)))
    assert ours == pytest.approx(theirs, rel=2e-3)
    unbiased = Quality(Measured(0.99, 0.97, 1.01), *[Measured(noise, noise, noise)] * 3)
    assert tables.better_beyond(unbiased, usual) == ("never seen" if noise < 390 else "1")


def learned(entrant: str, gae_lambda: float, objective: float, seed: int = 0, **changes: object) -> Run:
    values = {"state": COMPLETED, "critic": "value_head", **changes}
    return Run(entrant, gae_lambda, str(values["critic"]), seed, "j", "c", str(values["state"]), objective)


def test_learning_is_that_of_the_tuning_runs_whose_critic_knows_nothing() -> None:
    def quality(alignment: float) -> Quality:
        return Quality(*[Measured(alignment, alignment, alignment)] * 4)

    rows = [Row("R3HF", at, {"prefix": 1.0}) for at in (0.6, 1.0)] + [Row("LIME", 1.0, {"lime": 1.0})]
    stage = Stage(0, {row: quality(float(place)) for place, row in enumerate(rows)}, 8, 1.0)
    saved = [learned("R3HF", 0.6, 0.1), learned("R3HF", 1.0, 0.2), learned("LIME", 1.0, 0.3)]
    misleading = [
        learned("R3HF", 0.6, 9.0, seed=200),
        learned("R3HF", 0.6, 9.0, critic=REWARD_MODEL),
        learned("other", 0.6, 9.0),
    ]
    found = predicted(stage, saved + misleading)
    assert found.value == pytest.approx(1) and found.methods == 3
    lost = predicted(stage, [*saved, learned("LIME", 1.0, math.nan, seed=1, state="nan")])
    assert lost.methods == 2 and math.isnan(lost.value)
    assert tables.relation_claims("t", lost) == []


def small_config() -> StudyConfig:
    values = {
        "name": "t",
        "space": {"methods": ["prefix"]},
        "shape": {"budget": 16},
        "ppo": {"steps": 2, "batch_size": 4, "device": "cpu", "save_steps": 0},
        "sampling": {"response_tokens": 6},
    }
    return parse_config(values, "t")


class InProcess:
    """Stands for a pool of processes."""

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    map = staticmethod(map)


@pytest.mark.slow
def test_the_whole_on_a_small_task(monkeypatch: pytest.MonkeyPatch) -> None:
    # Few words and one prompt: some hundred responses show where the gradient points.
    config, task = small_config(), few_words_trainer().task

    def trained(label: str, steps: int) -> PPOTrainer:
        trainer = PPOTrainer(
            task, config.base_shape().with_changes(weights={"sparse": 1.0}), config.ppo, config.sampling, 0
        )
        for step in range(steps):
            trainer.step(step)
        return trainer

    monkeypatch.setattr(measuring, "trained", trained)
    monkeypatch.setattr(measuring, "task_config", lambda label: config)
    monkeypatch.setattr(measuring, "processes", lambda workers: InProcess())
    sizes = measuring.Sizes(6, 64)
    stages = [measuring.measure("tiny", steps, sizes, 1, 4) for steps in (0, 1)]
    names = {row.shown for row in stages[0].qualities}
    assert names == {TRUTH[0], "sparse"} | {
        each.name for each in ENTRANTS if each.reward_scale == 1 and each.name not in (TUNED, "sparse, value head")
    }
    assert [stage.responses for stage in stages] == [384, 384] and [stage.steps for stage in stages] == [0, 1]
    first, second = ([quality.alignment.value for quality in stage.qualities.values()] for stage in stages)
    # The policy has moved, and every method is measured.
    assert first != second and not math.isnan(sum(first))
    told = tables.text("tiny", 4, stages, Relation("alignment", "final J", 0.5, 0.1, 0.8, 40))
    assert "**Before training.** 384 responses" in told and "**After 1 steps of sparse PPO.**" in told
    assert "+0.50 [+0.10, +0.80]" in told and told.count("| sparse |") == 4
    claimed = {claim.name for claim in tables.claims("tiny", 6, stages)}
    assert "gradients.tiny.alignment_0.true_gradient.lambda_1" in claimed
    again = measuring.measure("tiny", 0, sizes, 1, 4)
    assert [quality.alignment for quality in again.qualities.values()] == [
        quality.alignment for quality in stages[0].qualities.values()
    ]


def test_groups_are_fresh_and_every_method_sees_the_same_responses() -> None:
    config, trainer = small_config(), tiny_trainer(batch_size=4)
    field = [each for each in contenders(config.base_shape()) if each.method in ("sparse", "prefix")]
    first, second = (group_gradients(trainer, field, [1.0], 8, seed) for seed in (0, 1))
    assert set(first) == {("sparse", 1.0), ("prefix", 1.0), TRUTH}
    assert not torch.equal(first[TRUTH], second[TRUTH])
    more = [*field, *(each for each in contenders(config.base_shape()) if each.method == "uniform")]
    beside = group_gradients(trainer, more, [1.0], 8, 0)
    for key, gradient in first.items():
        torch.testing.assert_close(beside[key], gradient)


@pytest.mark.parametrize("label", sorted(measuring.VARIANTS))
def test_a_variant_is_its_task_but_for_what_it_says(label: str) -> None:
    task, changes = measuring.VARIANTS[label]
    mine, its = (what_decides(measuring.task_config(name)) for name in (label, task))
    assert {key for key in its if mine[key] != its[key]} == {change.partition("=")[0] for change in changes}
