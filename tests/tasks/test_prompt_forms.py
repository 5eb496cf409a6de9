"""What a reward model reads of prompts: its own chat template and beginning, once; the raw library is the oracle."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from pipeline.config.load import parse_config
from pipeline.tasks.custom.prompt_forms import PolicySide, PromptForms, PromptTexts, reads_otherwise
from pipeline.tasks.custom.task import load
from pipeline.tasks.prompt_file import PromptRow
from pipeline.trainers.base import Task
from shaping.reward_models import CausalRewardModel, RetokenizedRewardModel
from shaping.rollouts import Rollouts
from shaping.scoring import score_responses
from tests.support.models.own_models import own_policy, own_values, write_lines
from tests.support.models.tiny_families import byte_tokenizer, tiny_family, word_tokenizer

MARKS = ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<think>", "</think>"]
CHATS = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
OTHER_CHATS = (
    "{{ bos_token }}{% for m in messages %}{{ m.role | upper }}: {{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
WITHOUT_SYSTEM = OTHER_CHATS.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "the film"}]
ANSWER = "It was good"


def tokenizer_of(template: str | None = None, vocabulary: int = 330, bos: bool = False) -> Any:
    tokenizer = copy.deepcopy(byte_tokenizer(vocabulary, bos))
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS})
    tokenizer.chat_template = template
    return tokenizer


def task_of(folder: Path, policy: Any, reward: Any, rows: list[dict[str, Any]], **changes: Any) -> Task:
    """Return the task of a policy and a reward model with these tokenizers, all prompts held out."""
    for name, model, tokenizer in (
        ("policy", own_policy(), policy),
        ("reward", tiny_family("Llama", 336, seed=4, max_position_embeddings=256), reward),
    ):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    file = str(write_lines(folder / "prompts.jsonl", rows))
    values = own_values(folder, held_out_prompts=file, held_out_share=None, **changes)
    settings: Any = parse_config(values, "test").task
    return load(settings, None)


def score(task: Task, answer: list[int], place: int = 0) -> float:
    prompt = task.held_out_prompts.to_ids()[place]
    return float(score_responses(task.reward_model, Rollouts.of_ids([prompt], [answer])))


@torch.no_grad()
def plain_logit(folder: Path, ids: list[int]) -> float:
    model = AutoModelForSequenceClassification.from_pretrained(folder / "reward", dtype=torch.float32)
    return float(model(input_ids=torch.tensor([ids])).logits)


def encoded(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize(
    ("template", "bos", "row"),
    [(OTHER_CHATS, False, {"messages": CHAT}), (OTHER_CHATS, True, {"messages": CHAT}), (None, True, {"prompt": "so"})],
    ids=["template", "template and beginning", "beginning"],
)
def test_a_reward_model_of_the_policys_vocabulary_reads_its_own_form(
    template: str | None, bos: bool, row: dict[str, Any], tmp_path: Path
) -> None:
    reward = tokenizer_of(template, bos=bos)
    task = task_of(tmp_path, tokenizer_of(CHATS), reward, [row])
    if "messages" in row:
        own = reward.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    else:
        own = "<s>so"
    joined = encoded(reward, own + ANSWER)
    assert joined.count(reward.bos_token_id) == 1
    assert score(task, encoded(task.tokenizer, ANSWER)) == pytest.approx(plain_logit(tmp_path, joined), abs=1e-4)
    assert isinstance(task.reward_model, RetokenizedRewardModel) and task.notes == ()


@pytest.mark.parametrize("template", [CHATS, None], ids=["the same template", "no template"])
def test_a_reward_model_with_no_form_of_its_own_reads_the_policys_tokens(template: str | None, tmp_path: Path) -> None:
    task = task_of(tmp_path, tokenizer_of(CHATS), tokenizer_of(template), [{"messages": CHAT}, {"messages": CHAT[1:]}])
    assert isinstance(task.reward_model, CausalRewardModel) and task.notes == ()


@pytest.mark.parametrize("vocabulary", [330, 290], ids=["the policy's vocabulary", "another"])
def test_a_templated_prompt_begins_once_as_its_messages_do(vocabulary: int, tmp_path: Path) -> None:
    policy = tokenizer_of(OTHER_CHATS, bos=True)
    text = policy.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    assert text.startswith("<s>")
    reward = tokenizer_of(OTHER_CHATS, vocabulary, bos=True)
    task = task_of(tmp_path, policy, reward, [{"prompt": text}, {"messages": CHAT}])
    first, second = task.held_out_prompts.to_ids()
    assert first == second and first.count(policy.bos_token_id) == 1
    expected = plain_logit(tmp_path, encoded(reward, text + ANSWER))
    for place in (0, 1):
        assert score(task, encoded(policy, ANSWER), place) == pytest.approx(expected, abs=1e-4)


def test_texts_that_begin_with_it_are_not_begun_again() -> None:
    tokenizer = byte_tokenizer(330, with_bos=True)
    rollouts = Rollouts.of_texts(tokenizer, ["<s>so", "so"], ["good", "good"])
    assert rollouts.prompt_ids.tolist() == [[1, *encoded(tokenizer, "so")]] * 2
    # Another word of the same letters is no beginning.
    assert PromptRow("", None, "<s").ids(tokenizer)[0] == 1


def test_an_encoder_frames_a_templated_prompt_once(tmp_path: Path) -> None:
    tokenizer = copy.deepcopy(word_tokenizer())
    tokenizer.chat_template = "[CLS]{% for m in messages %}{{ m.content }} {% endfor %}"
    tokenizer.bos_token = "[CLS]"
    side = PolicySide(tokenizer_of(CHATS), 336, [(PromptRow("here", CHAT, ""), [5])])
    assert PromptForms(side, tokenizer)([5]) == "[CLS]Be brief. the film "
    assert PromptForms(side, tokenizer, opened=True)([5]) == "Be brief. the film "


def test_chats_that_differ_in_roles_alone_are_told_apart(tmp_path: Path) -> None:
    """Without the tokens that open turns, the texts of both prompts are the same."""
    other = [{"role": "user", "content": "Be brief."}, CHAT[1]]
    policy, reward = tokenizer_of(CHATS), tokenizer_of(OTHER_CHATS, 290)
    task = task_of(tmp_path, policy, reward, [{"messages": CHAT}, {"messages": other}])
    for place, chat in enumerate((CHAT, other)):
        own = reward.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        expected = plain_logit(tmp_path, encoded(reward, own + ANSWER))
        assert score(task, encoded(policy, ANSWER), place) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("vocabulary", [330, 290], ids=["the policy's vocabulary", "another"])
def test_a_message_that_the_reward_models_template_leaves_out_has_a_line(vocabulary: int, tmp_path: Path) -> None:
    rows = [{"messages": CHAT[1:]}, {"messages": CHAT}]
    task = task_of(tmp_path, tokenizer_of(CHATS), tokenizer_of(WITHOUT_SYSTEM, vocabulary), rows)
    file = tmp_path / "prompts.jsonl"
    (note, *_) = [note for note in task.notes if "leaves" in note]
    assert note.startswith("task.reward_model: its chat template leaves out words of prompts (1), ")
    assert f"first of system in {file}, line 2" in note


def test_a_form_that_leaves_a_message_out_is_another_form() -> None:
    policy = tokenizer_of(CHATS)
    row = PromptRow("line 1", CHAT, "\n".join(turn["content"] for turn in CHAT))
    assert reads_otherwise(PolicySide(policy, 336, [(row, row.ids(policy))]), tokenizer_of(WITHOUT_SYSTEM))


def test_prompts_that_have_one_text_have_a_line_where_a_function_reads_texts() -> None:
    policy = tokenizer_of(CHATS)
    chats = [[{"role": "user", "content": text} for text in texts] for texts in (["a", "b"], ["ab"], ["c"])]
    rows = [
        PromptRow(f"line {number}", chat, "\n".join(turn["content"] for turn in chat))
        for number, chat in enumerate(chats, 1)
    ]
    side = PolicySide(policy, 336, [(row, row.ids(policy)) for row in rows])
    (note,) = PromptTexts(side, lambda row: row.text).notes
    assert note == "prompts that are one to it (1), first line 1, are read in one form: the last's"
    assert PromptForms(side, tokenizer_of(OTHER_CHATS)).notes == ()


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        ("{{ m.content | trim }}", False),
        ("{{ m.content.split('</think>')[-1] }}", False),
        ("{{ m.content[:3] }}", True),
        ("{{ m.content | lower }}", True),
    ],
)
def test_words_are_lost_where_a_template_changes_them_and_not_where_it_moves_spaces(change: str, lost: bool) -> None:
    messages = [{"role": "user", "content": " The  Film\n"}, {"role": "assistant", "content": "<think>x</think>Yes."}]
    reward = tokenizer_of(CHATS.replace("{{ m.content }}", change))
    forms = PromptForms(PolicySide(tokenizer_of(CHATS), 336, [(PromptRow("here", messages, ""), [5])]), reward)
    assert bool(forms.notes) is lost


def test_control_words_of_the_policys_template_in_plain_prompts_have_a_line_where_the_other_has_none(
    tmp_path: Path,
) -> None:
    policy, plain = tokenizer_of(CHATS), copy.deepcopy(byte_tokenizer(290))
    text = policy.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    row = (PromptRow("p.jsonl, line 1", None, text), [5])
    (note,) = PromptForms(PolicySide(policy, 336, [row]), plain).notes
    assert note == (
        "prompts (1) hold control words of the policy's, which it reads as text, first p.jsonl, line 1: "
        "write them as messages"
    )
    assert PromptForms(PolicySide(policy, 336, [row]), tokenizer_of(None, 290)).notes == ()


def test_a_slow_tokenizer_of_the_policys_vocabulary_is_told_from_one_that_reads_its_own_form() -> None:
    policy, reward = tokenizer_of(CHATS), tokenizer_of(OTHER_CHATS)
    row = PromptRow("here", CHAT, "")
    side = PolicySide(policy, 336, [(row, row.ids(policy))])
    assert reads_otherwise(side, reward) and not reads_otherwise(side, policy)


FUNCTION = "def score(prompts, responses):\n    return [10.0 * ('</think>' in r) + len(r) for r in responses]\n"


def test_what_is_said_in_special_tokens_is_seen_by_functions_and_other_tokenizers(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text(FUNCTION)
    function = {"function": f"{tmp_path / 'rewards.py'}:score"}
    policy, reward = tokenizer_of(CHATS), tokenizer_of(OTHER_CHATS, 290)
    rows = [{"messages": CHAT}]
    answer = encoded(policy, "hm</think> good<|end|>")
    told = task_of(tmp_path, policy, reward, rows, reward_model=function)
    assert score(told, answer) == 10.0 + len("hm</think> good")
    read = task_of(tmp_path, policy, reward, rows)
    own = reward.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    expected = [*encoded(reward, own + "hm</think> good"), reward.eos_token_id]
    assert score(read, answer) == pytest.approx(plain_logit(tmp_path, expected), abs=1e-4)
