"""Batches that do not fit into memory: cut smaller at the stage that says so, kept to, and remembered over attempts."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from pipeline.trainers.ppo.engines import loop
from pipeline.trainers.ppo.evaluation import evaluate
from pipeline.trainers.ppo.portions import OBSERVE, SAMPLE, SCORE, UPDATE, Portions
from pipeline.trainers.ppo.settings import PPOSettings, SamplingSettings
from pipeline.trainers.ppo.trainer import PPOTrainer
from shaping.errors import TrialFailed
from shaping.reward_models import CausalRewardModel
from shaping.shape import Shape
from tests.support.models.tiny_models import mixed_rollouts, tiny_classifier
from tests.support.models.tiny_task import ending_policy, tiny_task, tiny_trainer

LACKING = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
SHAPE = Shape(weights={"shapley": 0.5, "prefix": 0.5}, unit="token", max_units=4)


def trainer_of(kept: Path | None = None, task=None, **sampling) -> PPOTrainer:
    settings = PPOSettings(steps=3, batch_size=5, learning_rate=1e-2)
    chosen = SamplingSettings(response_tokens=6, stop_at_eos=True, **sampling)
    return PPOTrainer(task or tiny_task(policy=ending_policy()), SHAPE, settings, chosen, 3, kept_portions=kept)


@pytest.mark.parametrize("at_once", [1, 2, 4, 7])
def test_responses_that_are_sampled_in_portions_are_the_same(at_once):
    whole, cut = trainer_of(), trainer_of(micro_batch_size=at_once)
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    prompts = whole.task.train_prompts
    (expected, seen), (found, seen_in_parts) = (
        each.sample(prompts, generator) for each, generator in zip((whole, cut), generators, strict=True)
    )
    assert torch.equal(found.response_ids, expected.response_ids)
    assert torch.equal(found.response_mask, expected.response_mask) and not bool(found.response_mask.all())
    assert torch.allclose(seen_in_parts.own.log_probs, seen.own.log_probs, atol=1e-5)
    assert torch.allclose(seen_in_parts.reference_log_probs, seen.reference_log_probs, atol=1e-5)


def test_each_stage_is_cut_smaller_and_a_further_attempt_begins_so(monkeypatch, tmp_path, caplog):
    expected = [point.to_dict() for point in trainer_of().steps()]
    kept, trainer = tmp_path / "portions.json", trainer_of(tmp_path / "portions.json")
    plain = loop.sample_responses

    def sampled(*arguments):
        if (arguments[-1] or 5) > 2:
            raise LACKING
        return plain(*arguments)

    monkeypatch.setattr(loop, "sample_responses", sampled)
    observe = trainer.reference.observe
    monkeypatch.setattr(
        trainer.reference, "observe", lambda given, size: _or_lacking((size or 5) > 1, observe, given, size)
    )
    score, passes = trainer.task.reward_model.score, trainer.task.reward_model.passes
    monkeypatch.setattr(
        trainer.task.reward_model, "score", lambda given: _or_lacking(passes.most_tokens > 600, score, given)
    )
    with caplog.at_level(logging.WARNING):
        found = [point.to_dict() for point in trainer.steps()]
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-3)
    told = [record.message for record in caplog.records if "out of memory" in record.message]
    assert told == [
        "out of memory while sampling: continuing with sampling.micro_batch_size 2",
        "out of memory while observing: continuing with responses in one forward pass 2",
        "out of memory while observing: continuing with responses in one forward pass 1",
        "out of memory while scoring: continuing with tokens in one forward pass of the reward model 1024",
        "out of memory while scoring: continuing with tokens in one forward pass of the reward model 512",
    ]
    again = trainer_of(kept)
    assert [again.portions.most(stage) for stage in (SAMPLE, OBSERVE, SCORE, UPDATE)] == [2, 1, 512, None]
    # The bound of the passes is the reward model's own, which another attempt has loaded anew.
    assert again.task.reward_model.passes.most_tokens == 2048
    evaluate(again, 4)
    assert again.task.reward_model.passes.most_tokens == 512


def _or_lacking(lacks, compute, *arguments):
    if lacks:
        raise LACKING
    return compute(*arguments)


def test_credit_that_is_computed_again_draws_the_same_coalitions(monkeypatch):
    shape = Shape(weights={"lime": 1.0}, unit="token", max_units=6, budget=8)
    whole, short = tiny_trainer(shape), tiny_trainer(shape)
    score, failures = short.task.reward_model.score, [3]

    def sometimes(variants):
        failures[0] -= 1
        if failures[0] == 0:
            raise LACKING
        return score(variants)

    monkeypatch.setattr(short.task.reward_model, "score", sometimes)
    expected, found = ([point.to_dict() for point in each.steps()] for each in (whole, short))
    assert failures[0] < 0
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_a_stage_whose_least_does_not_fit_ends_the_trial_with_its_remedy():
    def never(rows):
        raise LACKING

    with pytest.raises(TrialFailed, match=r"sampling does not fit .* sampling.micro_batch_size 1 either") as failure:
        Portions({}).rows(SAMPLE, 5, never)
    assert failure.value.reason == "out_of_memory" and "response_tokens" in failure.value.hint
    model = CausalRewardModel(tiny_classifier())
    with pytest.raises(TrialFailed, match="reward model 64 either") as failure:
        Portions({}).passes(model, lambda: never(None))
    assert "half precision" in failure.value.hint


def test_a_lack_of_memory_is_never_taken_for_a_fault_of_a_way_to_score(monkeypatch):
    model = CausalRewardModel(tiny_classifier())
    calls = []

    def lacking(*arguments, **options):
        calls.append(arguments)
        raise LACKING

    monkeypatch.setattr(model.model.base_model, "forward", lacking)
    with pytest.raises(RuntimeError, match="allocate"):
        model.prefix_scores(mixed_rollouts())
    assert calls and not model._trials._refused
