"""A config's YAML is read as it stands there: no key is lost, and no number becomes another."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.load import load_config
from pipeline.config.yaml_text import NotYamlError, WrittenNumber, as_numbers, dump_yaml, parse_yaml
from shaping.errors import ConfigError
from tests.support.studies import tiny_config

START = "name: own\ntask: {name: sentiment}\n"
DOUBLED = [
    ("ppo:\n  steps: 5\nsampling: {stop_at_eos: true}\nppo:\n  batch_size: 8\n", ["line 6", "ppo is given", "line 3"]),
    ("ppo:\n  steps: 5\n  batch_size: 8\n  steps: 6\n", ["line 6", "ppo.steps is given", "line 4"]),
    ("'ppo': {steps: 5}\nppo: {steps: 6}\n", ["line 4", "ppo is given"]),
    ("ppo: {steps: 5, steps: 5}\n", ["line 3", "ppo.steps"]),
    ("ppo: {lora: {rank: 4, alpha: 8, rank: 16}}\n", ["line 3", "ppo.lora.rank"]),
    (
        "trainer:\n  function: a:b\n  options:\n    tables:\n    - {x: 1}\n    - {x: 1,\n       x: 2}\n",
        ["line 9", "1.x"],
    ),
    ("trainer: {function: a:b, options: {yes: 1, on: 2}}\n", ["line 3", "on is given"]),
    ("name: other\n", ["line 3", "name is given"]),
    ("ppo: &again {lora: *again}\n", ["line 3", "holds itself"]),
]


@pytest.mark.parametrize(("lines", "words"), DOUBLED, ids=[lines for lines, _ in DOUBLED])
def test_a_key_that_stands_twice_is_named_with_its_lines(lines: str, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(START + lines)
    with pytest.raises(ConfigError) as refusal:
        load_config(path)
    for word in (*words, str(path)):
        assert word in refusal.value.message


def test_what_a_merge_brings_may_be_given_again(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"{START}ppo: &base {{steps: 5, batch_size: 8}}\ntrainer:\n  function: a:b\n  options:\n")
    merged = "    first: &other\n      <<: *base\n      steps: 6\n    second: {<<: *other, batch_size: 2}\n"
    with path.open("a") as file:
        file.write(merged)
    config = load_config(path)
    assert config.trainer is not None
    assert config.trainer.options["first"] == {"steps": 6, "batch_size": 8}
    assert config.trainer.options["second"] == {"steps": 6, "batch_size": 2}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("ppo.steps=3", "ppo.steps=4"), ["ppo.steps", "twice"]),
        (("ppo.steps=3", "search.trials=9", " ppo.steps =3"), ["ppo.steps", "twice"]),
        (("ppo.steps=3", "ppo={batch_size: 4}"), ["--set ppo", "ppo.steps", "undo"]),
        (("ppo={steps: 3, steps: 4}",), ["--set ppo", "steps", "twice"]),
    ],
)
def test_an_override_that_would_undo_another_is_refused(
    changes: tuple[str, ...], words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "own.yaml").write_text(START)
    with pytest.raises(ConfigError) as refusal:
        load_config(tmp_path / "own.yaml", changes)
    for word in words:
        assert word in refusal.value.message


def test_a_section_may_be_set_before_one_of_its_keys_and_where_the_file_has_null(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(f"{START}ppo: {{lora: null}}\n")
    config = load_config(tmp_path / "own.yaml", ("search={trials: 7}", "search.seed=3", "ppo.lora.rank=4"))
    assert (config.search.trials, config.search.seed) == (7, 3)
    assert config.ppo.lora is not None
    assert config.ppo.lora.rank == 4


READ = [
    ("1e-3", 1e-3),
    ("1E3", 1000.0),
    ("-2.5e3", -2500.0),
    ("010", "010"),
    ("1:30", "1:30"),
    ("1:30.5", "1:30.5"),
    ("0x10", 16),
    ("1_000", 1000),
    ("1.5", 1.5),
    (".5", 0.5),
    (".inf", math.inf),
    ("12", 12),
    ("0", 0),
    ("'1e-3'", "1e-3"),
    ("yes", True),
    ("~", None),
    ("1234e56x", "1234e56x"),
]


@pytest.mark.parametrize(("text", "value"), READ, ids=[text for text, _ in READ])
def test_a_plain_number_is_the_number_that_stands_there(text: str, value: Any) -> None:
    found = as_numbers(parse_yaml(f"[{text}, {{x: {text}}}]", "here"))
    assert found == [value, {"x": value}]
    assert type(found[0]) is type(value)


def test_what_may_be_a_text_or_a_number_is_what_the_field_wants(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "name: 1e5\ntask: {name: prompts, policy: {model: a/b, revision: 1234e56}, reward_model: {model: a/b}, "
        "prompts: p.jsonl}\nppo: {learning_rate: 1e-3}\ntrainer: {function: a:b, options: {rate: 1e-3, word: '1e-3'}}\n"
    )
    config = load_config(tmp_path / "own.yaml")
    assert (config.name, config.task.policy.revision) == ("1e5", "1234e56")  # type: ignore[union-attr]
    assert config.ppo.learning_rate == 1e-3
    assert config.trainer is not None
    assert config.trainer.options == {"rate": 1e-3, "word": "1e-3"}
    # What is kept of a study says the same to whoever reads it.
    (tmp_path / "again.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "again.yaml") == config


@pytest.mark.parametrize("word", ["true", "yes", "on", "'true'", "'yes'", "1", "True"])
def test_responses_that_may_end_move_the_closure_in_whichever_word_it_is_said(word: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(f"{START}sampling: {{stop_at_eos: {word}}}\n")
    config = load_config(tmp_path / "own.yaml")
    assert config.sampling.stop_at_eos
    assert config.shape.closure == "first"


def test_sections_that_are_objects_move_the_closure_too() -> None:
    ends, plain = tiny_config(sampling={"stop_at_eos": True}), tiny_config()
    values = {"name": "x", "sampling": ends.sampling}
    assert type(plain).model_validate(values).shape.closure == "first"
    assert type(plain).model_validate({**values, "shape": ends.shape}).shape.closure == "first"


@pytest.mark.parametrize(
    "text", ["a: [1", "a: 2024-13-45", "!!int ''", "!!bool maybe", "a: \x01", "--- 1\n--- 2", "[" * 3000, "a: *b"]
)
def test_what_is_no_yaml_is_one_error(text: str) -> None:
    with pytest.raises(NotYamlError):
        parse_yaml(text, "here")


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=12,
    )
)
def test_what_was_written_comes_back(value: Any) -> None:
    assert as_numbers(parse_yaml(dump_yaml(value), "here")) == value


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.text(alphabet="ab:{}[]-&*!'\"\n #,|>%@`?<01e.~", max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = parse_yaml(text, "here")
    except (ConfigError, NotYamlError):
        return
    assert isinstance(found, type(None) | bool | int | float | str | list | dict | set | WrittenNumber)
