"""Lines of a prompt file: read, or refused with file and line; a chat is what its template makes of every message."""

from __future__ import annotations

import json
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tasks.prompt_file import PromptRow, read_answered, read_prompts
from pipeline.tasks.template_day import DIRECTIVES, UNPADDED, on_day
from shaping.errors import ConfigError
from tests.support.models.own_models import chat_tokenizer

CHATML = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
HALF = "\\ud83d"


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def refusal(line: str, folder: Path) -> str:
    path = folder / "p.jsonl"
    path.write_text(f'{{"prompt": "the film"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        read_prompts(path, "task.prompts")
    assert f"{path}, line 2" in refused.value.message
    assert refused.value.hint
    return refused.value.message


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (f'{{"prompt": "broken {HALF} emoji"}}', "prompt"),
        ('{"prompt": "the wrong half \\ude00"}', "prompt"),
        ('{"prompt": "halves apart \\ud83d \\ude00"}', "prompt"),
        (f'{{"messages": [{{"role": "user", "content": "{HALF}"}}]}}', "messages"),
        (f'{{"messages": [{{"role": "us{HALF}er", "content": "a"}}]}}', "messages"),
        (f'{{"messages": [{{"role": "user", "content": "a", "name": "{HALF}"}}]}}', "messages"),
        (f'{{"messages": [{{"role": "user", "content": "a", "{HALF}": 1}}]}}', "messages"),
        (f'{{"prompt": "a", "meta": {{"tags": [["{HALF}"]]}}}}', "meta"),
        (f'{{"prompt": "a", "{HALF}": 1}}', "surrogate"),
    ],
)
def test_half_a_surrogate_pair_is_named_with_its_line(line: str, field: str, tmp_path: Path) -> None:
    said = refusal(line, tmp_path)
    assert field in said
    assert "half of a surrogate pair" in said
    assert "role" not in said.replace("p.jsonl", "") or "role" in field


def test_whole_pairs_and_other_rare_characters_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "whole \\ud83d\\ude00 \\u0000 \\u2028 \\ufffe"}\n')
    assert [row.text for row in read_prompts(path, "f")] == ["whole 😀 \0 \u2028 \ufffe"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "a", "prompt": "b"}', ["'prompt' is given twice"]),
        ('{"messages": [{"role": "user", "content": "a", "role": "tool"}]}', ["'role' is given twice"]),
        ('{"messages": [{"role": " ", "content": "a"}]}', ["role of a message is empty"]),
        ('{"messages": [{"role": "user", "content": "a"}], "tools": [{"name": "f"}]}', ["tools"]),
        ("[" * 20_000, ["is not JSON"]),
        ('{"prompt": "raw \t tab"}', ["is not JSON"]),
    ],
)
def test_a_line_that_would_be_read_as_something_else_is_refused(line: str, words: list[str], tmp_path: Path) -> None:
    said = refusal(line, tmp_path)
    for word in words:
        assert word in said


def made(messages: list[Any], template: str) -> str:
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = template
    return str(PromptRow("f, line 7", messages, "").templated(tokenizer, tokenize=False))


SYSTEM, TOOL = {"role": "system", "content": "be kind"}, {"role": "tool", "content": "42"}
ONLY = (
    "{% for m in messages %}{% if m.role in ['user', 'assistant'] %}<s>{{ m.role }} {{ m.content }}{% endif %}"
    "{% endfor %}"
)
ELSE = (
    "{% for m in messages %}{% if m.role == 'user' %}[U {{ m.content | trim }}]{% else %}[A {{ m.content }}]{% endif %}"
    "{% endfor %}"
)
NAMED = "{% if messages[0].role == 'human' %}{{ messages[0].content }}{% endif %}"
PICKY = "{% if '{' in messages[0].content %}{{ messages[0].content }}{% else %}{{ 1 / 0 }}{% endif %}"
LAST = "[{{ messages[-1].content }}]"
PARTS = "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"
FIRST_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}|{% endif %}"
    "{% for m in messages %}{% if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("messages", "template", "words"),
    [
        ([SYSTEM, user("a")], ONLY, ["drops message 1", "'system'"]),
        ([user("a"), TOOL], ONLY, ["drops message 2", "'tool'"]),
        ([user("a"), SYSTEM, user("b")], FIRST_SYSTEM, ["drops message 2", "'system'"]),
        ([user("a"), {"role": "assistant", "content": "b"}, user("c")], LAST, ["drops message 1", "'user'"]),
        ([user("a")], PARTS, ["drops message 1"]),
        ([user("a"), TOOL], ELSE, ["takes message 2", "'tool'", "assistant's own"]),
        ([SYSTEM, user("a")], ELSE, ["takes message 1", "'system'", "assistant's own"]),
        ([{"role": "User", "content": "a"}], CHATML, ["message 1", "'User'", "does not know"]),
        ([{"role": "human", "content": "a"}], CHATML, ["'human'", "does not know"]),
        (
            [user("a"), {"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}, TOOL],
            CHATML,
            ["tool_calls"],
        ),
        ([SYSTEM, user("a")], "{{ raise_exception('no system') }}", ["refuses", "no system"]),
        ([user("a")], "{{ messages[0].content.missing.more }}", ["refuses"]),
        ([user("a")], "{{ 1 / 0 }}", ["refuses", "zero"]),
        ([user("a")], "{{ messages[7]['content'] }}", ["refuses"]),
        ([user("a")], "{% for m in %}", ["refuses"]),
    ],
)
def test_a_message_that_the_template_would_lose_is_named(messages: list[Any], template: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        made(messages, template)
    for word in ("f, line 7", *words):
        assert word in refused.value.message


@pytest.mark.parametrize(
    ("messages", "template", "expected"),
    [
        ([SYSTEM, user("a"), {"role": "assistant", "content": ""}, TOOL], CHATML, "<s>system\nbe kind<end>\n"),
        ([SYSTEM, user("")], FIRST_SYSTEM, "be kind|<user>"),
        (
            [{"role": "human", "content": "a"}],
            NAMED,
            "a",
        ),
        ([user("  Trimmed ")], "{{ messages[0].content | trim | upper }}", "TRIMMED"),
        (
            [user('{"a": 1}')],
            PICKY,
            "{",
        ),
        ([user("a"), TOOL], "{% for m in messages %}{{ m.content }}{% endfor %}", "a42"),
    ],
)
def test_messages_that_the_template_keeps_are_left_to_it(messages: list[Any], template: str, expected: str) -> None:
    assert made(messages, template).startswith(expected)


@pytest.mark.parametrize("form", [f"%{c}" for c in DIRECTIVES] + [f"%-{c}" for c in UNPADDED] + ["%d %b %Y", "%%Y %%"])
def test_a_template_is_told_the_day_as_the_clock_would_tell_it(form: str) -> None:
    tokenizer, day = chat_tokenizer(), date(2024, 2, 9)
    template = f"\n{{% set now = strftime_now('{form}') %}}Today: {{{{ now }}}}. {{{{ messages[0].content }}}}"
    tokenizer.chat_template = template
    row = PromptRow("f", [user("a")], "a", day)
    assert row.templated(tokenizer, tokenize=False) == f"\nToday: {datetime(2024, 2, 9).strftime(form)}. a"


def test_a_template_without_a_clock_stays_as_it_is() -> None:
    assert on_day(CHATML, date(2024, 2, 9)) is CHATML


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(alphabet=st.characters(codec=None), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "prompt", "name", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
LINES = st.dictionaries(st.sampled_from(["prompt", "messages", "response", "tools", "x"]), VALUES, max_size=3)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(LINES.map(json.dumps) | VALUES.map(json.dumps) | st.text(max_size=12), min_size=1, max_size=3))
def test_any_lines_are_rows_or_one_error_with_file_and_line(tmp_path_factory: Any, lines: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.jsonl"
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    for read in (read_prompts, read_answered):
        try:
            rows = read(path, "task.prompts")
        except ConfigError as error:
            assert str(path) in error.message
            assert error.hint
            continue
        assert len(rows) == len(path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n"))
