"""The arithmetic of the PPO benchmark."""

from __future__ import annotations

import gc
import mmap
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
import torch

from benchmarks.ppo import peer as ppo_peer
from benchmarks.ppo import run as ppo_run
from benchmarks.ppo.__main__ import OURS, PEER, compared
from benchmarks.ppo.overhead import SHAPES, rotated, shares
from benchmarks.ppo.run import MIB, Run, Spent, Watch, peak_mib
from shaping import Rollouts, UnitSplitter

RUN = Run("tiny", "", batch_size=4, response_tokens=6, epochs=2, warm_up=2, steps=3)


@pytest.fixture
def processor_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """A clock that reads what the test puts into it, and ``gc.collect`` as it was afterwards."""
    now = [100.0]
    monkeypatch.setattr(ppo_run.time, "process_time", lambda: now[0])
    monkeypatch.setattr(ppo_run, "keep_freed_memory", lambda: True)
    monkeypatch.setattr(gc, "collect", lambda *_: now.__setitem__(0, now[0] + 0.5) or 0)
    yield now


def test_the_watch_leaves_out_warm_up_steps_and_counts_collections_apart(processor_time: list[float]) -> None:
    watch = Watch()
    watch.tick()
    for seconds in (50.0, 7.0, 1.0, 2.0, 3.0):
        processor_time[0] += seconds
        if seconds < 3:
            gc.collect()
        watch.tick()
    spent = watch.spent(RUN)
    assert spent.seconds == pytest.approx([1.5, 2.5, 3.0])
    assert spent.collecting == pytest.approx([0.5, 0.5, 0.0])
    assert spent.tokens_per_second == pytest.approx(4 * 6 * 3 / (1 + 2 + 3))
    assert spent.tokens_per_second_collecting == pytest.approx(4 * 6 * 3 / 7)


def test_a_run_of_another_number_of_steps_is_refused(processor_time: list[float]) -> None:
    watch = Watch()
    for _ in range(4):
        watch.tick()
    with pytest.raises(SystemExit, match=r"expected 2 \+ 3 steps, but saw 3"):
        watch.spent(RUN)


def test_peak_memory_remembers_what_was_given_back() -> None:
    before = peak_mib()
    size = int(before - psutil.Process().memory_info().rss / MIB + 64) * MIB
    with mmap.mmap(-1, size) as block:
        for start in range(0, size, mmap.PAGESIZE):
            block[start] = 1
    assert before + 32 <= peak_mib() <= before + 96


def test_claims_compare_the_runs_that_stood_beside_each_other() -> None:
    def spent(seconds: float, peak: float) -> Spent:
        return Spent([seconds, seconds], [0.0, 0.0], 24, peak, 10.0)

    own, peer = [spent(1.0, 60), spent(10.0, 50)], [spent(2.0, 100), spent(40.0, 100)]
    speed, memory = compared("tiny", OURS[1], own, peer)
    assert (speed.name, speed.value) == ("ppo.throughput_ratio_vs_trl_tiny_separate_critic", pytest.approx(3.0))
    assert (memory.name, memory.value) == (
        "ppo.peak_memory_ratio_vs_trl_tiny_separate_critic",
        pytest.approx(0.55),
    )
    assert compared("tiny", PEER, own, own)[0].value == 1.0


def test_overhead_is_what_a_method_adds_to_the_sparse_reward_over_a_sparse_step() -> None:
    spent = {"step": [10.0, 20.0], "sparse": [1.0, 2.0], "prefix": [1.5, 7.0]}
    assert shares(spent, "prefix") == pytest.approx([0.05, 0.25])
    assert shares(spent, "sparse") == [0.0, 0.0]


def test_every_method_goes_first_equally_often() -> None:
    names = list(SHAPES)
    orders = [rotated(names, repeat) for repeat in range(2 * len(names))]
    assert all(sorted(order) == sorted(names) for order in orders)
    assert sorted(order[0] for order in orders) == sorted(names * 2)


def test_spans_of_the_benchmark_are_six_of_four_tokens_whatever_they_say() -> None:
    class Tokens:
        all_special_ids = (0,)

        def __len__(self) -> int:
            return 9

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return [".,;:!?ab<"[index] for index in ids]

    ids = torch.randint(1, 9, (3, 24), generator=torch.Generator().manual_seed(0))
    rollouts = Rollouts(ids[:, :2], torch.ones(3, 2).bool(), ids, torch.ones(3, 24).bool())
    shape = SHAPES["span_shapley"]
    units = UnitSplitter(Tokens()).split(rollouts, shape.unit, shape.max_span, shape.max_units)
    assert units.tolist() == [[place // 4 for place in range(24)]] * 3


def test_a_run_travels_to_its_process_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["module", RUN.argument()])
    assert asdict(Run.given()) == asdict(RUN)


def test_another_release_of_trl_is_refused_by_name() -> None:
    import trl

    assert trl.__version__ != ppo_peer.WANTED
    with pytest.raises(
        SystemExit, match=f"TRL {ppo_peer.WANTED}, but found {trl.__version__} in {Path(trl.__file__).parent}"
    ):
        ppo_peer.library()
