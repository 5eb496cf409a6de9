"""The script for one GPU, in the small form that a CPU runs."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import Qwen3ForCausalLM

from benchmarks.gpu.__main__ import COLUMNS, measured, row_of
from benchmarks.gpu.clock import Clock, Spent
from benchmarks.gpu.credit import SETTINGS
from benchmarks.gpu.models import Workload, _config
from benchmarks.gpu.step import operations

STEP_PARTS = ["step: sample", "step: observe", "step: score", "step: update"]


@pytest.mark.slow
def test_every_part_is_measured_on_a_cpu_too() -> None:
    parts = list(measured(Workload.small("cpu"), steps=1, vllm_python=None))
    named = {part["part"]: part for part in parts}
    credit = [f"coalitions, {name}" for name, *_ in SETTINGS]
    assert list(named) == [
        *STEP_PARTS, "step", "engine transformers", "engine continuous", *credit, "attention row"
    ]  # fmt: skip
    # A step is its parts, and little else.
    assert 0 < sum(named[name]["wall_seconds"] for name in STEP_PARTS) <= named["step"]["wall_seconds"]
    assert all(named[name]["doctor_gib"] > 0 for name in STEP_PARTS)
    for part in parts:
        assert json.loads(json.dumps(part)) == part and "refused" not in part
        assert len(row_of(part)) == len(COLUMNS)
    assert not torch.backends.cuda.matmul.allow_tf32


def test_sizes_are_those_of_the_models_that_they_are_named_after() -> None:
    work = Workload()
    with torch.device("meta"):
        policy = Qwen3ForCausalLM(_config(work.policy))
        judge = Qwen3ForCausalLM(_config(work.reward))
    # As Qwen3's technical report counts them (arXiv 2505.09388): 1.7B and 4B.
    assert policy.num_parameters() == pytest.approx(1.72e9, rel=0.01)
    assert judge.num_parameters() == pytest.approx(4.02e9, rel=0.01)


def test_operations_are_six_a_weight_and_token_that_it_is_applied_to() -> None:
    size = {**Workload().policy, "num_hidden_layers": 2}
    with torch.device("meta"):
        policy = Qwen3ForCausalLM(_config(size))
    layers = sum(weight.numel() for weight in policy.model.layers.parameters() if weight.dim() > 1)
    head = policy.lm_head.weight.numel()
    assert operations(size, 16, 8, 24, 2) == 6 * 2 * 16 * (layers * (8 + 24) + head * 24)


def test_a_watch_counts_every_call_and_leaves_the_object_as_it_was() -> None:
    class Worker:
        def work(self, number: int) -> int:
            return 2 * number

    worker, parts = Worker(), dict[str, Spent]()
    with Clock("cpu").watching(parts, worker, work="part"):
        assert [worker.work(each) for each in range(3)] == [0, 2, 4]
    assert parts["part"].wall_seconds > 0 and parts["part"].peak_gib is None
    before = parts["part"].wall_seconds
    worker.work(1)
    assert parts["part"].wall_seconds == before
    one, other = Spent(1.0, 2.0), Spent(2.0, 1.5)
    one.add(other)
    assert one == Spent(3.0, 2.0)
