"""Prompts from Parquet files, folders of ``datasets`` and addresses: the same as from JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pyarrow
import pytest
from pyarrow import parquet

from pipeline.config.load import absolute_paths, parse_config
from pipeline.tasks.custom.task import load
from pipeline.tasks.prompt_file import PromptRow, read_prompts
from pipeline.tasks.prompt_rows import prompt_rows
from shaping.errors import ConfigError
from tests.support.models.own_models import own_values, text_rows, write_lines, write_models

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why\u2028so?"}]
ROWS: list[dict[str, Any]] = [{"prompt": "The film"}, {"messages": CHAT}, {"prompt": "a great cast"}]
# Parquet gives every row every column.
FULL = [{"prompt": row.get("prompt"), "messages": row.get("messages"), "label": 1} for row in ROWS]


def lines(folder: Path) -> str:
    return str(write_lines(folder / "prompts.jsonl", ROWS))


def table(folder: Path) -> str:
    parquet.write_table(pyarrow.Table.from_pylist(FULL), folder / "prompts.parquet")
    return str(folder / "prompts.parquet")


def saved(folder: Path) -> str:
    datasets.Dataset.from_list(FULL).save_to_disk(str(folder / "saved"))
    return str(folder / "saved")


def address_of_lines(folder: Path) -> str:
    with fsspec.open("memory://prompts.jsonl", "w") as file:
        file.write("".join(json.dumps(row) + "\n" for row in ROWS))
    return "memory://prompts.jsonl"


def address_of_table(folder: Path) -> str:
    with fsspec.open("memory://prompts.parquet", "wb") as file:
        parquet.write_table(pyarrow.Table.from_pylist(FULL), file)
    return "memory://prompts.parquet"


SOURCES = [lines, table, saved, address_of_lines, address_of_table]


def told(rows: list[PromptRow]) -> list[Any]:
    return [(row.messages, row.text) for row in rows]


@pytest.mark.parametrize("make", SOURCES, ids=lambda make: make.__name__)
def test_every_source_gives_the_same_prompts(make: Callable[[Path], str], tmp_path: Path) -> None:
    found = read_prompts(make(tmp_path), "task.prompts")
    assert told(found) == [(None, "The film"), (CHAT, "Be brief.\nWhy\u2028so?"), (None, "a great cast")]
    assert told(read_prompts(make(tmp_path), "task.prompts", most=2)) == told(found)[:2]


@pytest.mark.parametrize("make", SOURCES, ids=lambda make: make.__name__)
def test_rows_are_read_as_they_are_asked_for(make: Callable[[Path], str], tmp_path: Path) -> None:
    ROWS.append({"wrong": "row"})
    FULL.append({"prompt": None, "messages": None, "label": 1})
    try:
        source = make(tmp_path)
        rows = prompt_rows(source, "task.prompts", "form", "lookup")
        assert next(rows)[0] == {"prompt": "The film"}
        next(rows), next(rows)
        with pytest.raises(ConfigError, match=rf"{source}, (row|line) 4 is no object with either prompt or messages"):
            next(rows)
    finally:
        ROWS.pop()
        FULL.pop()


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not")
    (tmp_path / "folder").mkdir()
    parquet.write_table(pyarrow.table({"prompt": pyarrow.array([], "string")}), tmp_path / "empty.parquet")
    splits = datasets.Dataset.from_list(FULL)
    datasets.DatasetDict({"train": splits, "test": splits}).save_to_disk(str(tmp_path / "splits"))
    for source, said in {
        tmp_path / "broken.parquet": "is no Parquet file",
        tmp_path / "empty.parquet": "holds no rows",
        tmp_path / "folder": "is no folder of the library datasets",
        tmp_path / "splits": r"holds the splits test, train\nname one of them: .*splits/test",
        tmp_path / "nowhere.parquet": "does not exist",
        "memory://nowhere.jsonl": "does not exist",
        "nothing://here.jsonl": "cannot be read",
    }.items():
        with pytest.raises(ConfigError, match=said):
            read_prompts(source, "task.prompts")


def test_an_address_stays_what_it_is_and_a_task_reads_the_first_prompts(tmp_path: Path) -> None:
    assert absolute_paths({"prompts": "hf://datasets/a/b.parquet"}, tmp_path, every=True) == {
        "prompts": "hf://datasets/a/b.parquet"
    }
    write_models(tmp_path)
    parquet.write_table(pyarrow.Table.from_pylist(text_rows(30)), tmp_path / "many.parquet")
    values = own_values(tmp_path, prompts=str(tmp_path / "many.parquet"), max_prompts=12)
    task = load(parse_config(values, "test").task, None)
    assert len(task.train_prompts) + len(task.held_out_prompts) == 12
