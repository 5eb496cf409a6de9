"""``shapetune doctor CONFIG --gpu-memory``, as it is typed."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from pipeline.cli import _run
from pipeline.commands.gpu_memory import say_fit
from pipeline.config.load import find_config, load_config
from pipeline.estimate.fit import Fit, fit_into


def test_doctor_shows_what_each_part_takes_and_what_a_study_may_cost(capsys) -> None:
    assert _run(["doctor", "quickstart", "--gpu-memory", "8"]) == 0
    said = capsys.readouterr().out
    for word in ("policy", "optimizer", "sampling", "updating", "would fit", "GiB at its peak", "hours for the study"):
        assert word in said
    # A program scores: there is no model of it.
    assert "reward model" not in said


def test_doctor_refuses_what_cannot_fit_with_the_setting_that_would(capsys) -> None:
    changes = ["--set", "sampling.response_tokens=200", "--set", "ppo.batch_size=128"]
    assert _run(["doctor", "sentiment", "--gpu-memory", "2", *changes]) == 2
    said = capsys.readouterr().err
    assert "updating takes" in said and "set ppo.micro_batch_size to" in said and "Traceback" not in said


@pytest.mark.parametrize("arguments", [["quickstart"], ["--gpu-memory", "80"]])
def test_doctor_wants_a_config_and_a_gpu_together(arguments: list[str], capsys) -> None:
    assert _run(["doctor", *arguments]) == 2
    assert "CONFIG and --gpu-memory together" in capsys.readouterr().err


def test_doctor_counts_what_an_engine_holds() -> None:
    """A server's share of the GPU, a copy in half precision; a server elsewhere takes nothing."""

    def fit(*changes: str) -> Fit:
        return fit_into(load_config(find_config("quickstart"), list(changes)), 8)

    plain, elsewhere = fit(), fit("sampling.engine=vllm", "sampling.vllm.url=http://node:8000")
    beside = fit("sampling.engine=vllm", "sampling.vllm.memory_share=0.5")
    assert elsewhere.usable == plain.usable
    assert plain.usable - beside.usable == pytest.approx(0.95 * 4 * 2**30, abs=2)
    assert beside.memory.parts["sampling"] < plain.memory.parts["sampling"]
    continuous = fit("sampling.engine=continuous").memory.weights
    # Weights of 2 bytes beside weights of 4.
    assert continuous["copy to sample from"] == plain.memory.weights["policy"] // 2


def test_doctor_says_that_a_custom_trainer_is_its_owners(capsys) -> None:
    changes = ["--set", "trainer.function=mine.py:train", "--set", "space.trainer={}"]
    assert _run(["doctor", "quickstart", "--gpu-memory", "8", *changes]) == 2
    assert "custom trainer" in capsys.readouterr().err


@pytest.mark.parametrize(("gib", "said"), [(8, "hours for the study"), (1.02, "weights and optimizer take")])
def test_a_launch_says_how_its_runs_fit_into_the_gpu_of_the_machine(gib, said, monkeypatch) -> None:
    shown, config = io.StringIO(), load_config(find_config("quickstart"))
    console = Console(width=1000, file=shown)
    found = SimpleNamespace(total_memory=int(gib * 2**30))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    say_fit(config, console)
    assert said in shown.getvalue()
