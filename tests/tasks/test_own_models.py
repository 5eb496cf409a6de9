"""One's own models on the command line: a run, a study, and what is refused before anything is trained."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from pipeline.cli import _run
from pipeline.config.load import builtin_folder, find_config
from pipeline.tasks.registry import load_task
from shaping.errors import ConfigError
from shaping.shape import Shape
from tests.support.models.own_models import (
    CHAT,
    chat_tokenizer,
    own_policy,
    own_values,
    text_rows,
    write_config,
    write_lines,
    write_models,
)
from tests.support.models.tiny_families import byte_tokenizer, tiny_family

pytestmark = pytest.mark.slow

FUNCTION = (
    "def vowels(prompts, responses):\n    return [sum(map(r.count, 'aeiou')) / 4 for r in responses]\n"
    "def rank(prompts, responses):\n    return [sum(o < r for o in responses) for r in responses]\n"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of tiny models, and of some that cannot serve."""
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    write_lines(folder / "prompts.jsonl", [*text_rows(), {"messages": CHAT}])
    (folder / "rewards.py").write_text(FUNCTION)
    policy, tokenizer, larger = own_policy(), chat_tokenizer(), copy.deepcopy(byte_tokenizer(420))
    larger.chat_template = tokenizer.chat_template
    broken: dict[str, tuple[Any, Any]] = {
        "backbone": (policy.model, tokenizer),
        "untokenized": (policy, None),
        # Of this kind the library makes a tokenizer without a file, out of the special tokens alone.
        "quietly_untokenized": (GPT2LMHeadModel(GPT2Config(vocab_size=336, n_embd=8, n_layer=1, n_head=1)), None),
        "two_labels": (tiny_family("Llama", 336, num_labels=2), tokenizer),
        "encoder_decoder": (T5ForConditionalGeneration(T5Config(d_model=8, d_ff=8, num_layers=1, num_heads=2)), None),
        "foreign_tokenizer": (own_policy(), larger),
    }
    torch.manual_seed(0)
    for name, (model, its_tokenizer) in broken.items():
        model.save_pretrained(folder / name)
        (its_tokenizer or tokenizer).save_pretrained(folder / name)
    for file in folder.glob("*untokenized/token*"):
        file.unlink()
    (folder / "corrupt").mkdir()
    tokenizer.save_pretrained(folder / "corrupt")
    (folder / "corrupt" / "config.json").write_text((folder / "policy" / "config.json").read_text())
    (folder / "corrupt" / "model.safetensors").write_bytes(b"no weights" * 20)
    return folder


@pytest.fixture(autouse=True)
def _fresh() -> None:
    load_task.cache_clear()


def test_training_from_files_leaves_a_policy_that_hugging_face_loads(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = own_values(models, max_prompt_tokens=24, gold_model={"model": "other"}, policy={"model": "policy"})
    config = write_config(models, values)
    arguments = ["train", str(config), "--weight", "shapley=1", "-o", str(tmp_path / "run")]
    assert _run(arguments) == 0
    said = capsys.readouterr()
    assert "1 of 3 held-out prompts left out" in said.out
    assert "Traceback" not in said.err and "[INFO" not in said.out + said.err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert len(result["curve"]) == 2 and result["certificate"]["return_preserving"]
    assert isinstance(result["evaluation"]["gold_reward"], float)
    assert result["task"]["policy"]["model"] == str(models / "policy")
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "policy").state_dict()
    before = own_policy().state_dict()
    assert trained.keys() == before.keys()
    assert any(not torch.equal(weight, before[name]) for name, weight in trained.items())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "policy")
    assert tokenizer.chat_template == chat_tokenizer().chat_template


@pytest.mark.usefixtures("without_ax_analyses")
def test_study_with_a_reward_function_needs_no_gold_and_no_critic_of_it(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = own_values(models, reward_model={"function": "rewards.py:vowels"})
    config = write_config(models, values)
    assert _run(["launch", str(config), "--studies", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "winner of the search" in said and "gold" not in said
    study = tmp_path / "own"
    assert yaml.safe_load((study / "study.yaml").read_text())["task"]["prompts"] == str(models / "prompts.jsonl")
    results = [json.loads(path.read_text()) for path in study.glob("*/*/result.json")]
    assert {result["arm"]["critic"] for result in results} == {None} and len(results) == 2 + 4
    assert all("gold_reward" not in result["metrics"] for result in results)
    (text,) = json.loads((study / "tokens.json").read_text())
    # What a function of texts cannot serve is left out; every other method's rewards sum to the score.
    assert {"winner", "sparse", "prefix", "shapley"} <= set(text["rewards"]) and "attention" not in text["rewards"]
    for rewards in text["rewards"].values():
        assert sum(rewards) == pytest.approx(text["score"], abs=1e-4)
    shape = study / "export" / "shape.json"
    assert Shape.load(shape).active_methods() and (study / "report.html").is_file()
    arguments = ["train", str(config), "--shape", str(shape), "-o", str(tmp_path / "run")]
    assert _run(arguments) == 0
    changed = ["--set", f"task.reward_model={{model: {models / 'reward'}}}"]
    assert _run([*arguments, *changed]) == 2
    assert "another reward model" in capsys.readouterr().err


# Changes to the task, --set changes to the rest, and the words that the error must hold.
REFUSED: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({"policy": {"model": "./missing"}}, [], ["task.policy.model", "no folder", "missing", "config.json"]),
    ({"policy": {"model": "backbone"}}, [], ["task.policy.model", "no weights for lm_head", "backbone"]),
    ({"policy": {"model": "reward"}}, [], ["task.policy.model", "no weights for lm_head", "classifier"]),
    ({"policy": {"model": "untokenized"}}, [], ["task.policy.model", "tokenizer", "save_pretrained"]),
    ({"policy": {"model": "quietly_untokenized"}}, [], ["task.policy.model", "holds no tokenizer", "save_pretrained"]),
    ({"policy": {"model": "encoder_decoder"}}, [], ["task.policy.model", "T5Config"]),
    ({"policy": {"model": "corrupt"}}, [], ["task.policy.model", "cannot be loaded", "safetensors"]),
    ({"policy": {"model": "foreign_tokenizer"}}, [], ["task.policy.model", "the model knows 336 tokens"]),
    ({"policy": {"model": "policy", "gguf_file": "x.gguf"}}, [], ["task.policy.model", "x.gguf"]),
    ({"policy": {}}, [], ["task.policy.model is missing"]),
    ({"policy": {"model": "policy", "modle": 1}}, [], ["task.policy.modle is not a known key"]),
    ({"reward_model": {"model": "policy"}}, [], ["task.reward_model.model", "no weights for score", "head"]),
    ({"reward_model": {"model": "two_labels"}}, [], ["task.reward_model", "2 labels", "num_labels = 1"]),
    ({"reward_model": {"model": "encoder"}}, [], ["task.reward_model", "no scalar head", "encoder"]),
    ({"reward_model": {"model": "other", "kind": "encoder"}}, [], ["task.reward_model", "Llama", "causal"]),
    ({"reward_model": {"model": "encoder", "kind": "encoder", "label": 3}}, [], ["task.reward_model", "label = 3"]),
    ({"reward_model": {"model": "reward", "pair": True}}, [], ["task.reward_model", "pair", "kind causal"]),
    ({"reward_model": {"model": "a", "function": "b:c"}}, [], ["task.reward_model", "model, function or url"]),
    ({"reward_model": {}}, [], ["task.reward_model", "model, function or url"]),
    ({"reward_model": {"function": "rewards.py:rank"}}, [], ["task: reward model", "one text 0 alone", "in a batch"]),
    ({"reward_model": {"function": "rewards.py"}}, [], ["task.reward_model.function", "rewards.py", "pattern"]),
    ({"reward_model": {"function": "rewards.py:vowls"}}, [], ["task.reward_model.function", "no function vowls"]),
    ({"reward_model": {"function": "no.such:score"}}, [], ["task.reward_model.function", "cannot be imported"]),
    (
        {"reward_model": {"function": "away.py:score"}},
        [],
        ["task.reward_model.function", "there is no file", "away.py"],
    ),
    ({"gold_model": {"model": "./missing"}}, [], ["task.gold_model.model", "no folder"]),
    ({"prompts": "missing.jsonl"}, [], ["task.prompts", "missing.jsonl", "does not exist", "beside the config"]),
    ({"held_out_prompts": "b.jsonl"}, [], ["task", "held_out_share", "one of them"]),
    ({"held_out_share": 1}, [], ["task.held_out_share", "less than 1"]),
    ({}, ["sampling.response_tokens=250"], ["sampling.response_tokens", "256", "policy"]),
    ({"reward_model": {"model": "other"}}, ["ppo.critic=reward_model"], ["ppo.critic", "value_head"]),
]


@pytest.mark.parametrize(("task", "changes", "words"), REFUSED, ids=[str(row[0] or row[1]) for row in REFUSED])
def test_what_cannot_serve_is_refused_by_name(
    task: dict[str, Any],
    changes: list[str],
    words: list[str],
    models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = write_config(models, own_values(models, **task))
    options = [part for change in changes for part in ("--set", change)]
    assert _run(["train", str(config), *options, "-o", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and 1 <= len(said.strip().splitlines()) <= 3, said
    for word in words:
        assert word in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def score(prompts, responses):\n    return [r[0] == 'a' for r in responses]", ["IndexError", "line 2"]),
        ("def score(texts):\n    return [0.0]", ["TypeError"]),
        ("def score(prompts, responses):\n    return 1.0", ["TypeError"]),
        ("def score(prompts, responses):\n    return [1.0, 2.0]", ["2 scores for one text"]),
        ("def score(prompts, responses)\n    return [1.0]", ["line 1", "not Python"]),
        ("import no_such_package", ["no_such_package"]),
        ("def score(prompts, responses):\n    return {'1': 0.5}", ["score", "a dict", "one number for each"]),
        ("def score(prompts, responses):\n    return '5'", ["score", "a str"]),
        ("def score(prompts, responses):\n    return [None]", ["score", "None", "response 1 of 1"]),
        ("def score(prompts, responses):\n    return ['5']", ["score", "'5', a str", "response 1 of 1"]),
        ("def score(prompts, responses):\n    return [float('nan')]", ["score", "nan", "empty response"]),
        ("async def score(prompts, responses):\n    return [0.0]", ["score", "asynchronous"]),
        ("def score(prompts, responses):\n    raise SystemExit(0)", ["SystemExit", "line 2"]),
        ("def score(prompts, responses):\n    yield 1 / 0", ["ZeroDivisionError", "line 2"]),
        ("raise SystemExit(0)", ["SystemExit", "line 1"]),
    ],
)
def test_function_that_fails_is_named_with_its_line(
    source: str, words: list[str], models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(source)
    settings = {"function": f"{tmp_path / 'mine.py'}:score"}
    config = write_config(models, own_values(models, reward_model=settings))
    assert _run(["launch", str(config), "--studies", str(tmp_path / "studies")]) == 2
    said = capsys.readouterr().err
    for word in ("task.reward_model.function", *words):
        assert word in said
    assert not (tmp_path / "studies").exists()


def test_a_response_that_the_function_cannot_score_ends_a_run_with_its_words(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(
        "def score(prompts, responses):\n    return [None if r else 1.0 for r in responses]"
    )
    settings = {"function": f"{tmp_path / 'mine.py'}:score"}
    config = write_config(models, own_values(models, reward_model=settings))
    assert _run(["train", str(config), "-o", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "mine.py:score returned None for response " in said
    assert "one number for each text" in said


def test_methods_that_the_reward_model_cannot_serve_end_a_study_before_it_starts(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = own_values(models, reward_model={"function": "rewards.py:vowels"})
    config = write_config(models, values | {"space": {"name": "credit_mix", "methods": ["prefix", "attention"]}})
    launch = ["launch", str(config), "--set", "search.trials=3", "--studies", str(tmp_path / "studies")]
    assert _run(launch) == 2
    said = capsys.readouterr().err
    for word in ("space.methods", "attention", "vowels"):
        assert word in said
    layer = ["--set", f"task.reward_model={{model: {models / 'reward'}}}", "--set", "shape.attention_layer=2"]
    assert _run([*launch, *layer]) == 2
    assert "attention_layer = 2 does not exist" in capsys.readouterr().err
    assert not (tmp_path / "studies").exists()


def test_hub_that_cannot_be_reached_is_named(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = write_config(models, own_values(models, policy={"model": "nobody/no-such-model"}))
    assert _run(["train", str(config), "-o", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    for word in ("task.policy.model", "nobody/no-such-model", "Hugging Face hub", "connection"):
        assert word in said


def test_template_without_paths_says_which_path_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["launch", "own_models", "--studies", str(tmp_path / "studies")]) == 2
    said = capsys.readouterr().err
    assert "task.prompts" in said and "/path/to/train.jsonl does not exist" in said
    assert not (tmp_path / "studies").exists()
    with pytest.raises(ConfigError, match=r"a copy of .*own_models\.yaml.*: .*quickstart, .*smoke"):
        find_config("no-such-config")


def test_template_trains_once_its_paths_are_filled_in(models: Path, tmp_path: Path) -> None:
    text = (builtin_folder() / "own_models.yaml").read_text()
    for placeholder, name in (("policy", "policy"), ("reward_model", "reward"), ("train.jsonl", "prompts.jsonl")):
        text = text.replace(f"/path/to/{placeholder}", str(models / name))
    (tmp_path / "mine.yaml").write_text(text)
    small = ["ppo.steps=1", "ppo.batch_size=4", "evaluation.prompts=2", "ppo.device=cpu"]
    options = [part for change in small for part in ("--set", change)]
    assert _run(["train", str(tmp_path / "mine.yaml"), *options, "-o", str(tmp_path / "run")]) == 0
