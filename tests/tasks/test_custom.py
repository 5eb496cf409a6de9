"""A task of one's own prompts: the chat template, the tokenizers and plain forward passes are what it is held to."""

from __future__ import annotations

import copy
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline.config.load import load_config, parse_config
from pipeline.tasks.asset_cache import cache_folder
from pipeline.tasks.custom.task import load
from pipeline.tasks.models.pretrained import end_of_response
from pipeline.tasks.prompt_file import PromptRow, read_prompts, split_prompts
from pipeline.tasks.registry import MODULES, load_task, task_kind
from pipeline.tasks.settings import TASK_NAMES
from pipeline.trainers.base import Prompts, Task
from pipeline.trials.task_models import open_task
from shaping.errors import ConfigError
from shaping.reward_models import CausalRewardModel, EncoderRewardModel, RetokenizedRewardModel
from shaping.scoring import score_responses
from tests.support.models.own_models import (
    CHAT,
    END,
    chat_tokenizer,
    other_tokenizer,
    own_policy,
    own_values,
    text_rows,
    write_config,
    write_lines,
    write_models,
)
from tests.support.models.tiny_families import byte_tokenizer, word_tokenizer
from tests.support.models.tiny_models import make_rollouts

RESPONSE = "It was good, why not?"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    write_lines(folder / "prompts.jsonl", text_rows())
    return folder


def task_of(models: Path, rows: list[Any] | None = None, **changes: Any) -> Task:
    """Return the task of the tiny models, over ``rows`` as held-out prompts where they are given."""
    if rows is not None:
        held_out = write_lines(models / "held_out.jsonl", rows)
        changes |= {"held_out_prompts": str(held_out), "held_out_share": None}
    settings: Any = parse_config(own_values(models, **changes), "test").task
    return load(settings, None)


def real(prompts: Prompts) -> list[list[int]]:
    return [ids[mask].tolist() for ids, mask in zip(prompts.ids, prompts.mask, strict=True)]


def rollouts_of(task: Task, response: str, ended: bool = False) -> Any:
    """Return the first held-out prompt with a response."""
    ids = task.tokenizer(response, add_special_tokens=False)["input_ids"] + [task.eos_token_id] * ended
    return make_rollouts([real(task.held_out_prompts)[0]], [ids])


@torch.no_grad()
def plain_logit(folder: Path, ids: list[int]) -> float:
    """Return Hugging Face's own score of a row."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    return float(model(input_ids=torch.tensor([ids])).logits)


def test_chat_prompts_are_what_the_chat_template_makes_of_them(models: Path) -> None:
    chats = [CHAT, [*CHAT, {"role": "assistant", "content": "Thin."}, {"role": "user", "content": "日本?"}]]
    task, tokenizer = task_of(models, [{"messages": chat} for chat in chats]), chat_tokenizer()
    expected = [tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False) for chat in chats]
    assert real(task.held_out_prompts) == expected
    assert not task.held_out_prompts.mask[0, 0] and task.held_out_prompts.mask[:, -1].all()
    assert task.tokenizer.convert_ids_to_tokens(task.eos_token_id) == END


def test_plain_prompts_come_after_what_the_tokenizer_puts_before_a_text(models: Path, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(330, with_bos=True)
    own_policy().save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    task = task_of(models, text_rows(3), policy={"model": str(tmp_path / "policy")})
    assert real(task.held_out_prompts) == [tokenizer(row["prompt"])["input_ids"] for row in text_rows(3)]
    assert real(task.held_out_prompts)[0][0] == tokenizer.bos_token_id
    assert task.eos_token_id == tokenizer.eos_token_id


def test_chosen_prompts_are_no_wider_than_the_longest_of_them() -> None:
    ids = torch.tensor([[0, 0, 0, 5], [0, 6, 7, 8], [1, 2, 3, 4]])
    chosen = Prompts(ids, ids > 0).select(torch.tensor([1, 0]))
    assert chosen.ids.tolist() == [[6, 7, 8], [0, 0, 5]]
    assert chosen.mask.tolist() == [[True, True, True], [False, False, True]]


def test_prompts_beyond_the_limit_are_left_out_and_counted(models: Path) -> None:
    rows = [{"prompt": "The film"}, {"prompt": "The film " * 20}, {"prompt": "dull"}]
    task = task_of(models, rows, max_prompt_tokens=20)
    assert real(task.held_out_prompts) == [chat_tokenizer()(text)["input_ids"] for text in ("The film", "dull")]
    assert task.notes == ("1 of 3 held-out prompts left out: longer than task.max_prompt_tokens = 20",)
    with pytest.raises(ConfigError, match=r"max_prompt_tokens = 1, but the shortest of the prompts has \d+ tokens"):
        task_of(models, max_prompt_tokens=1)


def held_out_said(models: Path, **changes: Any) -> str:
    """Return what is said as a task of the tiny models is opened."""
    config = parse_config(own_values(models, **changes), "test")
    said = io.StringIO()
    open_task(config, None, Console(width=1000, file=said))
    return said.getvalue()


def test_held_out_prompts_that_are_trained_on_are_counted_by_their_tokens(models: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "The film"}, {"prompt": "of its own"}, {"prompt": "dull"}]
    for held_out, both in (([*rows, rows[1]], 2), (text_rows(), len(text_rows()))):
        file = str(write_lines(tmp_path / f"held_out_{both}.jsonl", held_out))
        said = held_out_said(models, held_out_prompts=file, held_out_share=None)
        assert f"{both} of {len(held_out)} held-out prompts are also trained on" in said
    # Of one file, lines that differ in what the template never shows.
    chats = [{"messages": [{**CHAT[0], "id": number}]} for number in range(4)]
    lines = str(write_lines(tmp_path / "same.jsonl", chats))
    said = held_out_said(models, prompts=lines, held_out_prompts=None, held_out_share=0.5)
    assert "2 of 2 held-out prompts are also trained on" in said
    repeated = str(write_lines(tmp_path / "repeated.jsonl", text_rows() * 3))
    assert "also" not in held_out_said(models, prompts=repeated, held_out_prompts=None, held_out_share=0.5)


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.99])
@pytest.mark.parametrize("count", [2, 3, 10])
def test_held_out_prompts_follow_the_prompt_and_not_its_place(count: int, share: float) -> None:
    rows = [PromptRow(f"f, line {number}", None, f"prompt {number % count}") for number in range(3 * count)]
    train, held_out = split_prompts(rows, share)
    shown, judged = ({row.text for row in part} for part in (train, held_out))
    assert not shown & judged and len(train) + len(held_out) == len(rows)
    assert len(judged) == min(count - 1, math.ceil(share * count))
    assert {row.text for row in split_prompts(rows[::-1], share)[1]} == judged


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"prompt": "a"}\n\n{"prompt": "b"}\n', ["line 2 is empty", "remove"]),
        ('{"prompt": "a"}\n{"prompt": \n', ["line 2 is not JSON", '{"prompt": "..."}']),
        ('["a"]\n', ["line 1 is no object"]),
        ('{"text": "a"}\n', ["line 1 is no object with either prompt or messages"]),
        ('{"prompt": "a", "messages": []}\n', ["line 1 is no object with either"]),
        ('{"prompt": "  "}\n', ["line 1: prompt is empty"]),
        ('{"prompt": [{"role": "user"}]}\n', ["line 1: prompt is a list"]),
        ('{"messages": []}\n', ["line 1: messages is empty"]),
        ('{"messages": [{"role": "user"}]}\n', ["line 1: a message has no role or no content"]),
        ('{"messages": [{"role": "user", "content": ["image"]}]}\n', ["no content that is a text"]),
        ('{"messages": [{"role": "assistant", "content": "a"}]}\n', ["the last message is the assistant's"]),
        ("", ["is empty"]),
    ],
)
def test_a_broken_line_is_named_with_its_file(content: str, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigError) as refused:
        read_prompts(path, "task.prompts")
    for word in ("broken.jsonl", *words):
        assert word in str(refused.value)


def test_prompts_keep_every_character(tmp_path: Path) -> None:
    texts = ["two\nlines", "a\u2028separator", "naïve 日本 😀", " space "]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\ufeff" + "".join(json.dumps({"prompt": text}, ensure_ascii=False) + "\n" for text in texts))
    assert [row.text for row in read_prompts(path, "task.prompts")] == texts


def test_messages_that_no_template_takes_are_named_with_their_line(models: Path, tmp_path: Path) -> None:
    system = [{"role": "system", "content": "x"}, *CHAT]
    with pytest.raises(ConfigError, match=r"held_out\.jsonl, line 2: the chat template refuses .*no system here"):
        task_of(models, [{"messages": CHAT}, {"messages": system}])
    own_policy().save_pretrained(tmp_path)
    byte_tokenizer(330).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"held_out\.jsonl, line 1 holds messages, but .* no chat template"):
        task_of(models, [{"messages": CHAT}], policy={"model": str(tmp_path)})


@pytest.mark.parametrize(
    ("declared", "chat", "expected"),
    [(None, False, "</s>"), ([330, 2], False, "</s>"), (None, True, END), ([2], True, END)],
)
def test_a_response_ends_where_the_model_ends_its_turn(declared: Any, chat: bool, expected: str) -> None:
    tokenizer = chat_tokenizer()
    assert end_of_response(tokenizer, declared, chat) == tokenizer.convert_tokens_to_ids(expected)


def test_the_end_of_a_response_may_come_from_the_generation_config_alone() -> None:
    tokenizer = copy.deepcopy(byte_tokenizer(330))
    tokenizer.eos_token = None
    assert [end_of_response(tokenizer, declared) for declared in (7, [8, 9], None)] == [7, 8, None]


@pytest.mark.parametrize("at_eos", [False, True])
def test_reward_model_of_the_same_tokenizer_reads_the_policys_tokens(at_eos: bool, models: Path) -> None:
    task = task_of(models, [{"messages": CHAT}], reward_model={"model": str(models / "reward"), "read_at_eos": at_eos})
    assert isinstance(task.reward_model, CausalRewardModel)
    assert (task.critic_source is task.reward_model) is not at_eos
    rollouts = rollouts_of(task, RESPONSE, ended=True)
    ids = chat_tokenizer().apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    row = ids + chat_tokenizer()(RESPONSE)["input_ids"] + [task.eos_token_id]
    eos = [chat_tokenizer().eos_token_id] if at_eos else []
    found = float(score_responses(task.reward_model, rollouts))
    assert found == pytest.approx(plain_logit(models / "reward", row + eos), abs=1e-5)


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("prompt", [{"messages": CHAT}, {"prompt": "The Film"}], ids=["chat", "text"])
def test_reward_model_of_another_tokenizer_reads_its_own_form_of_the_prompt(
    prompt: dict[str, Any], ended: bool, models: Path
) -> None:
    settings = {"model": str(models / "other"), "mean": 0.5, "deviation": 2.0}
    task, tokenizer = task_of(models, [prompt], reward_model=settings), other_tokenizer()
    if "messages" in prompt:
        opening = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    else:
        opening = tokenizer("The Film")["input_ids"]
    assert opening.count(tokenizer.bos_token_id) == 1
    eos = [tokenizer.eos_token_id] if ended else []
    expected = plain_logit(models / "other", opening + tokenizer(RESPONSE, add_special_tokens=False)["input_ids"] + eos)
    assert isinstance(task.reward_model, RetokenizedRewardModel) and task.critic_source is None
    found = float(score_responses(task.reward_model, rollouts_of(task, RESPONSE, ended)))
    assert found == pytest.approx((expected - 0.5) / 2.0, abs=1e-5)


def test_template_of_another_tokenizer_opens_the_text_itself(models: Path, tmp_path: Path) -> None:
    tokenizer = other_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.removeprefix("{{ bos_token }}")
    AutoModelForSequenceClassification.from_pretrained(models / "other").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    chats = write_lines(tmp_path / "chats.jsonl", [{"messages": CHAT}])
    task = task_of(models, [{"messages": CHAT}], prompts=str(chats), reward_model={"model": str(tmp_path)})
    opening = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    assert tokenizer.bos_token_id not in opening
    expected = plain_logit(tmp_path, opening + tokenizer(RESPONSE, add_special_tokens=False)["input_ids"])
    found = float(score_responses(task.reward_model, rollouts_of(task, RESPONSE)))
    assert found == pytest.approx(expected, abs=1e-5)


def test_encoder_reads_the_texts_of_prompt_and_response(models: Path) -> None:
    task = task_of(models, [{"messages": CHAT}], reward_model={"model": str(models / "encoder"), "kind": "encoder"})
    assert isinstance(task.reward_model, RetokenizedRewardModel)
    assert isinstance(task.reward_model.inner, EncoderRewardModel)
    expected = plain_logit(models / "encoder", word_tokenizer()(f"{CHAT[0]['content']}\n{RESPONSE}")["input_ids"])
    found = float(score_responses(task.reward_model, rollouts_of(task, RESPONSE)))
    assert found == pytest.approx(expected, abs=1e-5)


def test_scale_of_a_reward_model_is_its_own_unless_the_config_says_another(models: Path, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(models / "reward")
    model.config.score_mean, model.config.score_deviation = 0.25, 4.0
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(models / "reward").save_pretrained(tmp_path)
    scores = []
    for scale in ({}, {"mean": 0.0, "deviation": 1.0}, {"mean": 1.0}):
        task = task_of(models, reward_model={"model": str(tmp_path), **scale})
        scores.append(float(score_responses(task.reward_model, rollouts_of(task, RESPONSE))))
    assert scores[0] == pytest.approx((scores[1] - 0.25) / 4.0, abs=1e-6)
    assert scores[2] == pytest.approx((scores[1] - 1.0) / 4.0, abs=1e-6)


FUNCTION = """
seen = []

def score(prompts, responses):
    seen.extend(zip(prompts, responses))
    return [len(prompt) + 0.5 * response.count("o") for prompt, response in zip(prompts, responses)]
"""


def test_function_gets_the_prompts_of_the_file_and_the_responses_as_texts(models: Path, tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text(FUNCTION)
    chat = [{"role": "user", "content": "Hi "}, {"role": "user", "content": "Why?"}]
    settings = {"function": f"{tmp_path / 'rewards.py'}:score", "mean": 1.0, "deviation": 2.0}
    task = task_of(models, [{"messages": chat}, {"prompt": " The Film"}], reward_model=settings)
    prompts = real(task.held_out_prompts)
    response = task.tokenizer(RESPONSE, add_special_tokens=False)["input_ids"]
    rollouts = make_rollouts(prompts, [[*response, task.eos_token_id], []])
    texts = ["Hi \nWhy?", " The Film"]
    expected = [(len(texts[0]) + 0.5 * RESPONSE.count("o") - 1) / 2, (len(texts[1]) - 1) / 2]
    assert score_responses(task.reward_model, rollouts).tolist() == pytest.approx(expected)


def test_identity_of_a_function_is_its_name_and_its_source(models: Path, tmp_path: Path) -> None:
    def identity(source: str, name: str) -> str:
        (tmp_path / "rewards.py").write_text(source)
        return task_of(models, reward_model={"function": f"{tmp_path / 'rewards.py'}:{name}"}).reward_identity

    first = identity(FUNCTION, "score")
    assert identity(FUNCTION, "score") == first
    assert identity(FUNCTION.replace("0.5", "0.7"), "score") != first
    assert identity(FUNCTION + "other = score\n", "other") not in (
        first,
        identity(FUNCTION + "other = score\n", "score"),
    )


def test_identity_of_a_reward_model_is_its_own_behind_any_tokenizer(models: Path) -> None:
    expected = CausalRewardModel.from_pretrained(models / "other").identity()
    task = task_of(models, reward_model={"model": str(models / "other")}, gold_model={"model": str(models / "reward")})
    assert task.reward_identity == expected != task_of(models).reward_identity


def test_gold_model_is_there_when_it_is_asked_for(models: Path) -> None:
    assert task_of(models).gold_model is None
    gold = task_of(models, gold_model={"model": str(models / "other")}).gold_model
    assert isinstance(gold, RetokenizedRewardModel)


def test_reward_model_with_too_few_tokens_is_seen_through_texts(models: Path, tmp_path: Path) -> None:
    from tests.support.models.tiny_families import tiny_family

    # The policy can say ids beyond the tokenizer's: a reward model without them must not be given any.
    tiny_family("Llama", len(chat_tokenizer())).save_pretrained(tmp_path)
    chat_tokenizer().save_pretrained(tmp_path)
    task = task_of(models, reward_model={"model": str(tmp_path)})
    assert isinstance(task.reward_model, RetokenizedRewardModel)


def test_paths_are_found_beside_the_config_then_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, here = tmp_path / "beside", tmp_path / "here"
    for folder in (beside, here):
        (folder / "models" / "a").mkdir(parents=True)
        (folder / "train.jsonl").touch()
    (here / "models" / "b").mkdir()
    (here / "held.jsonl").touch()
    monkeypatch.chdir(here)
    task = own_values(beside)["task"] | {
        "policy": {"model": "models/a"},
        "reward_model": {"model": "models/b"},
        "gold_model": {"function": "missing.py:score"},
        "prompts": "train.jsonl",
        "held_out_prompts": "held.jsonl",
        "held_out_share": None,
    }
    path = write_config(beside, own_values(beside) | {"task": task})
    found: Any = load_config(path).task
    assert (found.policy.model, found.prompts) == (str(beside / "models/a"), str(beside / "train.jsonl"))
    assert (found.reward_model.model, found.held_out_prompts) == (str(here / "models/b"), str(here / "held.jsonl"))
    assert found.gold_model.function == f"{here / 'missing.py'}:score"
    changed: Any = load_config(path, ("task.prompts=train.jsonl", "task.policy.model=org/model")).task
    assert (changed.prompts, changed.policy.model) == (str(here / "train.jsonl"), "org/model")
    # A study's own file, read by a worker elsewhere, says the same.
    monkeypatch.chdir(tmp_path)
    assert parse_config(load_config(path).model_dump(mode="json"), "job").task == load_config(path).task


@pytest.mark.parametrize("name", TASK_NAMES)
def test_every_task_of_the_config_has_a_module(name: str) -> None:
    assert set(MODULES) == set(TASK_NAMES)
    values = {"task": {"name": name}} if name != "prompts" else own_values(Path("anywhere"))
    kind = task_kind(parse_config({"name": "x"} | values, "test").task)
    assert all(callable(getattr(kind, part)) for part in ("unbuilt", "prepare", "load"))


def test_task_is_loaded_once_a_process(models: Path) -> None:
    settings = parse_config(own_values(models), "test").task
    assert load_task(settings, "") is load_task(parse_config(own_values(models), "again").task, "")
    load_task.cache_clear()


@pytest.mark.slow
@pytest.mark.skipif(not (cache_folder() / "downloads" / GGUF).exists(), reason="no GGUF file in the cache")
def test_gguf_policy_is_an_ordinary_model_of_the_files_weights(models: Path) -> None:
    gguf = pytest.importorskip("gguf")
    file = cache_folder() / "downloads" / GGUF
    changes: Any = {"policy": {"model": str(file)}, "reward_model": {"model": str(models / "other")}}
    task = task_of(models, [{"messages": CHAT}], **changes)
    assert task.tokenizer.decode(real(task.held_out_prompts)[0]).endswith(
        "What of the Plot?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert task.tokenizer.convert_ids_to_tokens(task.eos_token_id) == "<|im_end|>"
    # A model that counts as quantized refuses to be cast.
    weights = copy.deepcopy(task.policy).double().state_dict()
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    for ours, theirs in (("embed_tokens", "token_embd"), ("layers.7.mlp.down_proj", "blk.7.ffn_down")):
        tensor = tensors[f"{theirs}.weight"]
        expected = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type)).double()
        torch.testing.assert_close(weights[f"model.{ours}.weight"], expected)
