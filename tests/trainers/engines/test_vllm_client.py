"""What is asked of a vLLM server and what is made of its answers: beside a stand-in that samples row by row."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from pipeline.trainers.ppo.engines import tied
from pipeline.trainers.ppo.policy import TrainedPolicy, merged_weights
from pipeline.trainers.ppo.settings import LoraSettings
from pipeline.trainers.ppo.trainer import PPOTrainer
from pipeline.trials.failures import failure_of, halted
from shaping.errors import ConfigError, SamplingServerFailed, TrialFailed
from tests.support.models.tiny_models import EOS, tiny_policy
from tests.support.models.tiny_task import ending_policy, tiny_task, tiny_trainer
from tests.support.servers.sampling_server import SamplingServer, serving
from tests.support.waiting import LIMIT_SECONDS


def trainer_of(server: SamplingServer, folder: Path, sampling: dict[str, Any] | None = None, **ppo: Any) -> PPOTrainer:
    chosen = {"engine": "vllm", "vllm": {"url": server.url + "/", "weights_folder": folder}, **(sampling or {})}
    return tiny_trainer(task=tiny_task(policy=ending_policy()), sampling=chosen, **ppo)


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2, alpha=4)], ids=["whole", "adapter"])
@pytest.mark.parametrize("stops", [True, False])
def test_a_run_samples_from_the_weights_that_it_trains(stops: bool, lora: LoraSettings | None, tmp_path: Path) -> None:
    with serving() as server:
        trainer = trainer_of(server, tmp_path, {"stop_at_eos": stops, "temperature": 0.7}, lora=lora)
        with closing(trainer):
            for point in trainer.steps():
                assert point.engine_ratio == pytest.approx(1, abs=1e-4)
                assert point.engine_kl_nats == pytest.approx(0, abs=1e-4)
        asked = server.requests["/v1/completions"]
        assert len(asked) == 15 and len(server.requests["/collective_rpc"]) == 3
        # What an older policy computed is thrown away with it.
        assert len(server.requests["/reset_prefix_cache"]) == 3
    for each in asked:
        assert each["stop_token_ids"] == [EOS] and each["ignore_eos"] and each["model"] == "served"
        assert each["min_tokens"] == (0 if stops else 6)
        neutral = ("top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
        assert [each[name] for name in neutral] == [1, 0, 0, 1, 0, 0] and each["temperature"] == 0.7
    # One seed each, or responses to one prompt would be one response.
    assert len({each["seed"] for each in asked}) == len(asked)
    assert not list(tmp_path.iterdir())


def test_the_same_run_is_sampled_again(tmp_path: Path) -> None:
    curves = []
    with serving() as server:
        for _ in range(2):
            with closing(trainer_of(server, tmp_path)) as trainer:
                curves.append([point.to_dict() for point in trainer.steps()])
    assert curves[0] == curves[1]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("broken", r"sampling_server: sampling.vllm.url = .*/: v1/completions was answered with 500: .*engine is dead"),
        ("mute", r"sampling_server: .*answered 6 tokens with 0 log-probabilities"),
    ],
)
def test_a_server_that_gives_no_responses_stops_the_study(fault: str, said: str, tmp_path: Path) -> None:
    with serving(fault) as server, closing(trainer_of(server, tmp_path)) as trainer:
        with pytest.raises(SamplingServerFailed, match=said) as failure:
            next(trainer.steps())
    found = failure_of(failure.value)
    assert found.halts and found.may_be_retried
    assert "the same command resumes the study" in str(halted(found))


def test_a_server_that_takes_no_weights_is_refused_with_what_lets_it(tmp_path: Path) -> None:
    with serving("locked") as server, closing(trainer_of(server, tmp_path)) as trainer:
        with pytest.raises(ConfigError, match=r"(?s)takes no weights.*VLLM_SERVER_DEV_MODE=1"):
            next(trainer.steps())


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    gone = SamplingServer(url="http://127.0.0.1:1")
    with pytest.raises(SamplingServerFailed, match=r"sampling.vllm.url = http://127.0.0.1:1/: ConnectionError"):
        trainer_of(gone, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("fault", "step"), [("hot", 0), ("deaf", 1)])
def test_responses_of_another_distribution_or_of_old_weights_end_the_trial(
    fault: str, step: int, tmp_path: Path
) -> None:
    with serving(fault) as server:
        trainer = trainer_of(server, tmp_path, {"temperature": 0.3}, learning_rate=0.1)
        with closing(trainer), pytest.raises(TrialFailed, match=rf"disagreement: at step {step} the engine's"):
            for _ in trainer.steps():
                pass


def test_an_adapter_is_merged_as_the_library_merges_it(tmp_path: Path) -> None:
    source = tiny_policy()
    trained = TrainedPolicy.of(source, LoraSettings(rank=2, alpha=4))
    with torch.no_grad():
        for name, weight in trained.model.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    trained.model.save_pretrained(tmp_path / "ours", state_dict=merged_weights(trained.model))
    copy.deepcopy(trained.adapter).merge_and_unload().save_pretrained(tmp_path / "library")
    ours, theirs = (LlamaForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("ours", "library"))
    assert set(ours) == set(theirs) == set(source.state_dict())
    for name, weight in theirs.items():
        assert torch.allclose(ours[name], weight, atol=1e-6), name
    assert not torch.allclose(ours["lm_head.weight"], source.state_dict()["lm_head.weight"]) or any(
        not torch.allclose(ours[name], weight) for name, weight in source.state_dict().items()
    )


@pytest.mark.parametrize(
    ("python", "said"),
    [("/nowhere/python", r"sampling.vllm.python = /nowhere/python cannot be run"), (None, r"has no vllm\n.*own")],
)
def test_an_interpreter_without_vllm_is_refused(python: str | None, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tiny_trainer(sampling={"engine": "vllm", "vllm": {"python": python}})


def test_what_is_tied_to_a_trainer_ends_when_its_input_is_closed() -> None:
    """Its own children, too, and the exit code comes through."""
    script = (
        "import os, subprocess, sys, time; c = subprocess.Popen(['sleep', '6000']); print(c.pid, flush=True); c.wait()"
    )
    command = [sys.executable, tied.__file__, sys.executable, "-c", script]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    os.kill(int(process.stdout.readline()), 0)
    # Closes the input, and reads until nobody holds the other end of the output any more.
    process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode != 0
    command[3:] = ["-c", "raise SystemExit(7)"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.wait(LIMIT_SECONDS) == 7
