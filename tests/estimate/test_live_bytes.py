"""Bytes that are alive, of tensors that are there and of tensors of sizes alone."""

from __future__ import annotations

import copy

import torch
from torch import nn

from pipeline.estimate.live_bytes import FakeTensors, LiveBytes


def test_storages_count_once_and_until_nobody_looks_at_them() -> None:
    with LiveBytes() as live:
        first = torch.zeros(1000)
        view = first[10:]
        assert live.now == 4000
        second = first + view.sum()
        assert live.now == 8000
        del first
        assert live.now == 8000
        del view
        assert live.now == 4000 and live.most == 8000 + 4
        second += 1
        assert live.now == 4000
    assert second.sum() == 1000


def test_what_was_there_before_counts_for_nothing() -> None:
    layer = nn.Linear(10, 10)
    with LiveBytes() as live:
        live.leave_out(layer.parameters())
        with torch.no_grad():
            layer.weight.add_(1)
        assert live.now == 0
        layer(torch.zeros(5, 10)).sum().backward()
        # Gradients of weights and bias are new.
        assert live.now == 4 * (100 + 10)


def test_tensors_of_sizes_alone_are_counted_like_others_and_take_nothing() -> None:
    fake = FakeTensors()
    with fake:
        large = nn.Linear(100_000, 100_000)
    with fake, LiveBytes() as live, torch.no_grad():
        live.leave_out(large.parameters())
        large(torch.zeros(10, 100_000))
    assert live.most == 2 * 4 * 10 * 100_000
    assert torch.zeros(2).tolist() == [0, 0]


def test_models_of_sizes_alone_are_copied_and_change_their_type() -> None:
    with FakeTensors():
        layer = copy.deepcopy(nn.Sequential(nn.Linear(4, 3))).to(torch.bfloat16)
        assert {weight.dtype for weight in layer.parameters()} == {torch.bfloat16}
        assert layer(torch.zeros(2, 4, dtype=torch.bfloat16)).shape == (2, 3)
    plain = nn.Linear(4, 3).double()
    assert plain.weight.dtype == torch.float64 and plain.weight.is_leaf
