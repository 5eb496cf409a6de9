"""vLLM itself, on a CPU, in an environment of its own: its log-probabilities are the trainer's, update after update."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pipeline.trainers.base import Task
from pipeline.trainers.ppo.evaluation import evaluate
from pipeline.trainers.ppo.trainer import PPOTrainer
from tests.adapters.environments import python_of
from tests.support.models.tiny_models import EOS, tiny_policy
from tests.support.models.tiny_task import tiny_task, tiny_trainer

pytestmark = pytest.mark.slow


def wide_task(seed: int) -> Task:
    """Return a task whose policy has heads of the width that vLLM serves on a CPU."""
    wide = {"hidden_size": 64, "head_dim": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
    torch.manual_seed(seed)
    policy = LlamaForCausalLM(LlamaConfig(**{**tiny_policy().config.to_dict(), **wide})).eval()
    with torch.no_grad():
        # Far from even, so that temperatures and weights can be told apart.
        policy.lm_head.weight.mul_(4)
    # What a model's files say of sampling must not matter.
    policy.generation_config.update(do_sample=True, top_k=2, top_p=0.5, repetition_penalty=2.0)
    return tiny_task(policy=policy)


@pytest.fixture(scope="module")
def beside() -> Iterator[PPOTrainer]:
    """A trainer with a server beside it, which all tests ask: a start takes a minute."""
    settings = {"python": str(python_of("vllm"))}
    sampling = {"engine": "vllm", "vllm": settings, "temperature": 0.7, "stop_at_eos": True}
    trainer = tiny_trainer(task=wide_task(0), sampling=sampling, learning_rate=3e-3)
    yield trainer
    trainer.close()


def test_a_run_beside_its_server_samples_from_what_it_trains(beside: PPOTrainer) -> None:
    points = list(beside.steps())
    assert points[-1].kl_nats > 0.1
    for point in points:
        assert point.engine_ratio == pytest.approx(1, abs=1e-3)
        assert point.engine_kl_nats == pytest.approx(0, abs=1e-4)
    evaluation = evaluate(beside, 8)
    assert evaluation.to_dict() == evaluate(beside, 8).to_dict()


def test_a_server_that_runs_already_gets_the_weights_of_whoever_asks(beside: PPOTrainer, tmp_path: Path) -> None:
    url = beside._engine._url  # type: ignore[attr-defined]
    settings = {"url": url, "weights_folder": tmp_path}
    other = tiny_trainer(task=wide_task(1), sampling={"engine": "vllm", "vllm": settings}, learning_rate=3e-3)
    try:
        for point in other.steps():
            assert point.engine_kl_nats == pytest.approx(0, abs=1e-4)
        rollouts, _ = other.sample(other.task.train_prompts, torch.Generator().manual_seed(0))
    finally:
        other.close()
    # No end was to be sampled, and none was.
    assert bool(rollouts.response_mask.all()) and not bool((rollouts.response_ids == EOS).any())
