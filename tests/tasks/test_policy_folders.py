"""Folders of policies and reward models that look whole: adapters, quantized weights, special tokens, tokenizers."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GPT2Config, GPT2LMHeadModel, RwkvConfig

from pipeline.config.load import parse_config
from pipeline.tasks.custom.task import load, load_judge
from pipeline.tasks.model_settings import RewardSettings
from pipeline.tasks.models.pretrained import load_classifier, load_policy, outline_policy
from pipeline.tasks.models.saved_tokenizer import save_tokenizer
from pipeline.tasks.settings import PolicySettings
from pipeline.trainers.base import Task
from shaping.alignment import DecodedRollouts
from shaping.errors import ConfigError
from tests.support.models.own_models import (
    CHAT,
    VOCABULARY,
    chat_tokenizer,
    own_policy,
    own_values,
    text_rows,
    write_lines,
    write_models,
)
from tests.support.models.tiny_families import byte_tokenizer, tiny_family
from tests.support.models.tiny_models import make_rollouts

EOS, END, OTHER = 2, 330, 331
CHATS = [{"messages": CHAT}, *({"messages": [{"role": "user", "content": text}]} for text in ("a", "b", "c"))]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    write_lines(folder / "prompts.jsonl", text_rows())
    return folder


def settings_of(models: Path, **changes: Any) -> Any:
    return parse_config(own_values(models, **changes), "test").task


def saved(folder: Path, model: Any, tokenizer: Any) -> dict[str, Any]:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"model": str(folder)}


def adapter_on(base: Any, task_type: str = "CAUSAL_LM") -> Any:
    options = LoraConfig(r=2, target_modules=["q_proj"], task_type=task_type, init_lora_weights=False)
    return get_peft_model(base, options)


@pytest.mark.parametrize("whole", [False, True], ids=["adapter alone", "beside a whole model"])
def test_a_policy_that_is_an_adapter_is_refused(whole: bool, models: Path, tmp_path: Path) -> None:
    base = load_policy(PolicySettings(model=str(models / "policy")))
    if whole:
        base.save_pretrained(tmp_path)
    saved(tmp_path, adapter_on(base), chat_tokenizer())
    settings = settings_of(models, policy={"model": str(tmp_path)})
    for refuse in (lambda: load(settings, None), lambda: load_judge(settings, None, [])):
        with pytest.raises(ConfigError, match=r"task\.policy\.model: .* holds an adapter .*\n.*merge_and_unload"):
            refuse()


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8", "mxfp4"])
def test_a_quantized_policy_is_refused_before_its_weights_are_read(method: str, models: Path, tmp_path: Path) -> None:
    config = json.loads((models / "policy" / "config.json").read_text())
    quantized = {"quant_method": method, "bits": 4, "load_in_4bit": True}
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": quantized}))
    settings = PolicySettings(model=str(tmp_path))
    for reader in (load_policy, outline_policy):
        with pytest.raises(ConfigError, match=rf"task\.policy\.model: .* is quantized \({method}\).*\n.*GGUF"):
            reader(settings)


def test_a_policy_that_rescales_its_own_weights_is_refused(tmp_path: Path) -> None:
    for layers, refused in ((8, True), (4, False)):
        RwkvConfig(
            vocab_size=60, hidden_size=8, num_hidden_layers=layers, architectures=["RwkvForCausalLM"]
        ).save_pretrained(tmp_path)
        if refused:
            with pytest.raises(ConfigError, match="rescales its own weights"):
                outline_policy(PolicySettings(model=str(tmp_path)))
        else:
            outline_policy(PolicySettings(model=str(tmp_path)))


def with_head(kind: str, folder: Path) -> str:
    """Return the folder of a reward model that is an adapter, its head in the base, in the adapter, or nowhere."""
    if kind == "in the base":
        tiny_family("Llama", VOCABULARY, max_position_embeddings=256).save_pretrained(folder / "base")
    else:
        base = own_policy()
        base.config.num_labels = 1
        base.save_pretrained(folder / "base")
    model = AutoModelForSequenceClassification.from_pretrained(folder / "base", num_labels=1)
    adapter_on(model, "SEQ_CLS" if kind == "in the adapter" else "FEATURE_EXTRACTION").save_pretrained(
        folder / "adapter"
    )
    return str(folder / "adapter")


@pytest.mark.parametrize("kind", ["in the base", "in the adapter", "nowhere"])
def test_an_adapter_must_bring_the_head_that_its_base_lacks(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    settings, ids = RewardSettings(model=with_head(kind, tmp_path)), torch.arange(5, 25)[None]
    if kind == "nowhere":
        with pytest.raises(ConfigError, match=r"task\.reward_model\.model: .* has no weights for score"):
            load_classifier(settings, "task.reward_model")
        return
    scores = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        with torch.no_grad():
            scores.append(float(load_classifier(settings, "task.reward_model")(input_ids=ids).logits))
    assert scores[0] == scores[1]


def with_ends(folder: Path, ends: Any, pad: int | None = None, **changes: Any) -> dict[str, Any]:
    """Return a policy whose generation config says what ends a response."""
    policy, tokenizer = own_policy(), copy.deepcopy(chat_tokenizer())
    policy.generation_config.eos_token_id, policy.generation_config.pad_token_id = ends, pad
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    return saved(folder, policy, tokenizer)


@pytest.mark.parametrize(
    ("declared", "chat", "expected"),
    [
        (EOS, False, [EOS]),
        ([EOS, OTHER], False, [EOS, OTHER]),
        ([OTHER, EOS, OTHER], False, [EOS, OTHER]),
        (OTHER, False, [EOS, OTHER]),
        ([EOS, OTHER], True, [END, EOS, OTHER]),
        (END, True, [END]),
    ],
)
def test_a_response_ends_at_every_token_that_the_model_names(
    declared: Any, chat: bool, expected: list[int], models: Path, tmp_path: Path
) -> None:
    rows = write_lines(tmp_path / "prompts.jsonl", CHATS if chat else text_rows(4))
    settings = settings_of(models, policy=with_ends(tmp_path / "policy", declared), prompts=str(rows))
    task = load(settings, None)
    assert list(task.end_token_ids) == expected
    assert list(load_judge(settings, None, []).end_token_ids) == expected


def test_an_exotic_end_is_an_end_to_a_reward_model_of_another_tokenizer(models: Path, tmp_path: Path) -> None:
    other = {"model": str(models / "other")}
    task = load(settings_of(models, policy=with_ends(tmp_path, [EOS, OTHER]), reward_model=other), None)
    rollouts = make_rollouts([[40]] * 3, [[50, 51, EOS], [50, 51, OTHER], [50, 51, 52]])
    decoded = DecodedRollouts.of(rollouts, task.tokenizer)
    assert decoded.finished == [True, True, False]
    aligned = task.reward_model.align(rollouts).rollouts.response_tokens  # type: ignore[attr-defined]
    assert aligned[0] == aligned[1]


FOREIGN = VOCABULARY + 4


@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize(
    ("ends", "pad", "words"),
    [
        (FOREIGN, None, f"config says that token {FOREIGN} is end-of-sequence, but the model knows {VOCABULARY}"),
        ([EOS, FOREIGN], None, f"config says that token {FOREIGN} is end-of-sequence"),
        (EOS, FOREIGN, f"config says that token {FOREIGN} is padding"),
        ([EOS, -5], None, "config says that token -5 is end-of-sequence"),
    ],
)
def test_special_tokens_beyond_the_vocabulary_are_named(
    ends: Any, pad: int | None, words: str, stops: bool, models: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"task\.policy\.model: .*{words}"):
        load(settings_of(models, policy=with_ends(tmp_path, ends, pad)), None)


@pytest.mark.parametrize(("name", "role"), [("eos_token", "end-of-sequence"), ("pad_token", "padding")])
def test_special_tokens_that_the_tokenizer_alone_knows_are_named(
    name: str, role: str, models: Path, tmp_path: Path
) -> None:
    tokenizer = copy.deepcopy(byte_tokenizer(330))
    tokenizer.add_tokens([f"<{number}>" for number in range(VOCABULARY - len(tokenizer))])
    tokenizer.add_special_tokens({name: "<|new|>"})
    policy = saved(tmp_path, own_policy(), tokenizer)
    with pytest.raises(ConfigError, match=f"the tokenizer says that token {VOCABULARY} is {role}"):
        load(settings_of(models, policy=policy), None)


@pytest.mark.parametrize("named", [False, True])
def test_the_librarys_default_end_counts_where_nothing_else_names_one(
    named: bool, models: Path, tmp_path: Path
) -> None:
    tokenizer = copy.deepcopy(byte_tokenizer(330))
    if not named:
        tokenizer.eos_token = None
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=256, n_embd=16, n_layer=1, n_head=2))
    settings = settings_of(models, policy=saved(tmp_path, model, tokenizer))
    if named:
        assert load(settings, None).end_token_ids == (EOS,)
        return
    with pytest.raises(ConfigError, match="token 50256 is end-of-sequence, but the model knows 336 tokens"):
        load(settings, None)


def files_of(folder: Path) -> dict[str, bytes]:
    names = ("*token*", "*vocab*", "*merges*", "*chat_template*")
    return {path.name: path.read_bytes() for name in names for path in folder.glob(name) if path.is_file()}


@pytest.mark.parametrize("odd", [False, True], ids=["as the library writes it", "in words of its own"])
def test_the_tokenizer_beside_a_trained_policy_is_the_one_it_came_with(odd: bool, models: Path, tmp_path: Path) -> None:
    chats = write_lines(tmp_path / "prompts.jsonl", CHATS)
    policy = with_ends(tmp_path / "policy", [EOS, END])
    if odd:
        config = tmp_path / "policy" / "tokenizer_config.json"
        values = json.loads(config.read_text())
        # The template may stand in the config, and not in a file.
        values["chat_template"] = (tmp_path / "policy" / "chat_template.jinja").read_text()
        (tmp_path / "policy" / "chat_template.jinja").unlink()
        config.write_text(json.dumps({**values, "note": "kept"}))
    task = load(settings_of(models, policy=policy, prompts=str(chats)), None)
    assert task.tokenizer.eos_token_id == END
    save_tokenizer(task, tmp_path / "trained")
    assert files_of(tmp_path / "trained") == files_of(tmp_path / "policy")
    before, after = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("policy", "trained"))
    turns = [*CHAT, {"role": "assistant", "content": "Thin."}]
    assert before.apply_chat_template(turns, tokenize=False) == after.apply_chat_template(turns, tokenize=False)
    assert before.special_tokens_map == after.special_tokens_map and before.eos_token_id == EOS


def test_a_tokenizer_of_no_folder_is_written_as_it_came(tmp_path: Path) -> None:
    original, changed = chat_tokenizer(), copy.deepcopy(chat_tokenizer())
    changed.eos_token = "<end>"
    parts: Any = dict.fromkeys(("name", "policy", "reward_model", "gold_model", "train_prompts", "held_out_prompts"))
    save_tokenizer(Task(**parts, tokenizer=changed, original_tokenizer=original), tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).eos_token == original.eos_token == "</s>"
