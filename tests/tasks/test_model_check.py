"""Models that are looked at in a process of its own: the same findings, the same refusals, and none of their memory."""

from __future__ import annotations

import io
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from pipeline.config.load import parse_config
from pipeline.config.schema import StudyConfig
from pipeline.trials import model_check
from pipeline.trials.model_check import ask_apart
from pipeline.trials.task_models import known_of_models, ready_models
from shaping.errors import ConfigError, ShapetuneError
from tests.support.models.own_models import chat_tokenizer, own_values, text_rows, write_lines, write_models
from tests.support.studies import tiny_config

# Each starts a process that imports torch.
pytestmark = pytest.mark.slow

MIB = 2**20


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_models(tmp_path)
    write_lines(tmp_path / "prompts.jsonl", text_rows(8))
    return tmp_path


def config_of(models: Path, **task: Any) -> StudyConfig:
    return parse_config({**own_values(models, **task), "executor": {"name": "ray"}}, "test")


def test_what_is_known_of_models_is_the_same_from_another_process(models: Path) -> None:
    # One prompt is left out, which is told.
    write_lines(models / "prompts.jsonl", [*text_rows(8), {"prompt": "the film " * 40}])
    config = config_of(models, max_prompt_tokens=30)
    expected = known_of_models(config, None)
    assert expected["notes"] and expected["has_reward_critic"] and expected["prompts"]
    assert ask_apart(config, None) == expected
    said = io.StringIO()
    ready = ready_models(config, Console(width=1000, file=said))
    assert ready.has_reward_critic and ready.prompts == expected["prompts"]
    assert expected["notes"][0] in said.getvalue()


@pytest.mark.parametrize(
    "task", [{"reward_model": {"model": "/no/where"}}, {"reward_model": {"function": "nothing.py:score"}}], ids=str
)
def test_what_is_refused_there_is_refused_here_in_the_same_words(task: dict[str, Any], models: Path) -> None:
    config = config_of(models, **task)
    with pytest.raises(ConfigError) as expected:
        known_of_models(config, None)
    with pytest.raises(ConfigError) as found:
        ask_apart(config, None)
    assert (found.value.message, found.value.hint) == (expected.value.message, expected.value.hint)


def test_a_process_that_is_killed_is_told_as_a_lack_of_memory(models: Path, monkeypatch) -> None:
    plain = subprocess.Popen.communicate

    def killed(process, *arguments):
        os.kill(process.pid, signal.SIGKILL)
        return plain(process, b"")

    monkeypatch.setattr(model_check.subprocess.Popen, "communicate", killed)
    with pytest.raises(ShapetuneError, match=r"was killed: they do not fit .*\n.*bfloat16"):
        ask_apart(config_of(models), None)


def test_a_driver_does_not_keep_what_large_models_take(tmp_path: Path) -> None:
    sizes = {"vocab_size": 60_000, "hidden_size": 512, "intermediate_size": 512, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 8, "tie_word_embeddings": True, "pad_token_id": 0}
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(tmp_path / "policy")
    LlamaForSequenceClassification(LlamaConfig(**sizes, num_labels=1)).save_pretrained(tmp_path / "reward")
    for name in ("policy", "reward"):
        chat_tokenizer().save_pretrained(tmp_path / name)
    write_lines(tmp_path / "prompts.jsonl", text_rows(8))
    before = psutil.Process().memory_info().rss
    ready_models(config_of(tmp_path), Console(quiet=True))
    # Both together are 240 MiB.
    assert psutil.Process().memory_info().rss - before < 60 * MIB


def test_small_models_of_ours_are_looked_at_without_another_process(tiny_assets: Path, monkeypatch) -> None:
    monkeypatch.setattr("pipeline.trials.task_models.ask_apart", lambda *_: pytest.fail("another process was started"))
    config = tiny_config(executor={"name": "ray"})
    assert config.task.is_small and ready_models(config, Console(quiet=True)).assets == tiny_assets
