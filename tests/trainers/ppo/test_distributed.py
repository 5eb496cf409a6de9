"""Two processes that train one policy reach what one process reaches alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.trainers.ppo.distributed import Distributed
from shaping.errors import ConfigError
from tests.support.waiting import LIMIT_SECONDS
from tests.trainers.ppo.two_processes import CASES, trained

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, "-m", "tests.trainers.ppo.two_processes", str(folder)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def same(one, other, where=""):
    """Compare plain values; numbers may differ by rounding."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for name in one:
            same(one[name], other[name], f"{where}.{name}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            same(*pair, f"{where}[{number}]")
    elif isinstance(one, float):
        assert one == pytest.approx(other, abs=2e-4, rel=1e-3), where
    else:
        assert one == other, where


@pytest.mark.parametrize("case", CASES)
def test_two_processes_reach_the_parameters_of_one(case, together):
    number = list(CASES).index(case)
    trainer, said = trained(case)
    found = json.loads((together / f"{number}.json").read_text())
    # Shared prefixes are counted where they are shared: within a process.
    assert found.pop("credit_tokens") == pytest.approx(said.pop("credit_tokens"), rel=0.2)
    same(found, json.loads(json.dumps(said)))
    assert (said["curve"][0]["response_tokens"] < 6) == ("end" in case)
    weights = load_file(together / f"{number}.safetensors")
    for name, weight in trainer.actor.named_parameters():
        torch.testing.assert_close(weights[name], weight.detach(), atol=5e-4, rtol=0)


def of(rank, count):
    processes = Distributed("cpu")
    processes.rank, processes.count = rank, count
    return processes


@pytest.mark.parametrize(("total", "count"), [(5, 2), (7, 3), (3, 3), (16, 5)])
def test_every_row_belongs_to_one_process_and_shares_are_even(total, count):
    shares = [list(range(total))[of(rank, count).rows(total)] for rank in range(count)]
    assert [row for share in shares for row in share] == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_fewer_rows_than_processes_are_refused():
    with pytest.raises(ConfigError, match=r"ppo.batch_size = 2 is fewer than the 3 processes"):
        of(0, 3).check_rows(2, "ppo.batch_size")
    of(0, 3).check_rows(3, "ppo.batch_size")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_gpu_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match=r"ppo.device = cuda, but torch sees no GPU"):
        Distributed("cuda")
