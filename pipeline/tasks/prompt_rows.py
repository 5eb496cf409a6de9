"""The rows of a file of prompts: JSON lines or Parquet, here or at an address, or a folder of ``datasets``."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import fsspec

from shaping.errors import ConfigError

FORM = 'write one JSON object a line: {"prompt": "..."} or {"messages": [{"role": "user", "content": "..."}]}'
PARQUET, COLUMNS = ".parquet", ("prompt", "messages", "response", "tools")
# Rows of a Parquet file that are in memory at once.
ROWS_AT_ONCE = 4_096
Rows = Iterator[tuple[dict[str, Any], str]]


def prompt_rows(source: str, field: str, form: str, lookup: str) -> Rows:
    """Yield the object of each row with its place, for messages; a row is read when it is asked for.

    Args:
        source: A file of JSON lines; a Parquet file, by its ending, with columns of the same names; either of them at
            an address that fsspec knows, such as ``hf://datasets/org/name/train.parquet``; or a folder that
            ``Dataset.save_to_disk`` of the library ``datasets`` has made.
        field: What names it in the config.
        form: What a line has to be, for messages.
        lookup: Where relative paths are looked for, for messages.

    Raises:
        ConfigError: It cannot be read, holds nothing, or a row is broken; names file, row and remedy.
    """
    if "://" not in source and Path(source).is_dir():
        yield from _counted(_of_dataset(Path(source), field), source, form)
    elif source.endswith(PARQUET):
        with _opened(source, field, lookup) as stream:
            yield from _counted(_of_parquet(stream, source, field), source, form)
    else:
        yield from _of_lines(source, field, form, lookup)


def _opened(source: str, field: str, lookup: str) -> IO[bytes]:
    try:
        # An address may want a package of its own, and a way to where it leads.
        stream: IO[bytes] = fsspec.open(source, "rb").open() if "://" in source else Path(source).open("rb")
        return stream
    except FileNotFoundError as error:
        raise ConfigError(f"{field}: the file {source} does not exist", lookup) from error
    except (OSError, ImportError, ValueError) as error:
        raise ConfigError(
            f"{field}: {source} cannot be read: {error}", "give a file that can be opened here"
        ) from error


def _of_lines(source: str, field: str, form: str, lookup: str) -> Rows:
    number = 0
    with _opened(source, field, lookup) as stream, io.TextIOWrapper(stream, "utf-8-sig") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                yield _object(line.removesuffix("\n"), f"{source}, line {number}", form)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{field}: {source} cannot be read: {error}", "give a text file in UTF-8") from error
    if not number:
        raise ConfigError(f"{field}: {source} is empty", form)


def _of_parquet(stream: IO[bytes], source: str, field: str) -> Iterator[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(stream)
        columns = [name for name in COLUMNS if name in file.schema_arrow.names]
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns):
            yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise ConfigError(f"{field}: {source} is no Parquet file: {error}", "give one that pyarrow reads") from error


def _of_dataset(folder: Path, field: str) -> Iterator[Mapping[str, Any]]:
    from datasets import Dataset, load_from_disk

    try:
        found = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{field}: {folder} is no folder of the library datasets: {error}", "save it there: dataset.save_to_disk"
        ) from error
    if not isinstance(found, Dataset):
        splits = ", ".join(sorted(found))
        raise ConfigError(f"{field}: {folder} holds the splits {splits}", f"name one of them: {folder}/{min(found)}")
    yield from found.select_columns([name for name in COLUMNS if name in found.column_names])


def _counted(rows: Iterator[Mapping[str, Any]], source: str, form: str) -> Rows:
    """Yield each row with its place; a column without a value is not there."""
    number = 0
    for number, row in enumerate(rows, start=1):
        given = {name: value for name, value in row.items() if value is not None}
        yield _checked(given, f"{source}, row {number}", form)
    if not number:
        raise ConfigError(f"{source} holds no rows", form)


def _checked(values: Any, place: str, form: str) -> tuple[dict[str, Any], str]:
    for name, value in values.items() if isinstance(values, dict) else ():
        check_unicode(json.dumps([name, value], ensure_ascii=False), f"{place}: {name}")
    if not isinstance(values, dict) or ("prompt" in values) == ("messages" in values):
        raise ConfigError(f"{place} is no object with either prompt or messages", form)
    return values, place


def _object(line: str, place: str, form: str) -> tuple[dict[str, Any], str]:
    if not line.strip():
        raise ConfigError(f"{place} is empty", "remove it")
    try:
        return _checked(json.loads(line, object_pairs_hook=_unique), place, form)
    except _GivenTwiceError as error:
        raise ConfigError(f"{place}: the key {error} is given twice", "keep one of them") from error
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place} is not JSON: {error}", form) from error


class _GivenTwiceError(ValueError):
    """An object of which JSON would keep the last of two values."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _GivenTwiceError(repr(next(name for name in names if names.count(name) > 1)))
    return found


def check_unicode(text: str, what: str) -> None:
    """Refuse a text that holds half of a surrogate pair, which no tokenizer takes.

    Args:
        text: The text.
        what: What it is, for the error.

    Raises:
        ConfigError: It does.
    """
    half = next((character for character in text if "\ud800" <= character <= "\udfff"), None)
    if half is not None:
        raise ConfigError(
            f"{what} holds half of a surrogate pair, \\u{ord(half):04x}, which is no character",
            "write the whole character, in UTF-8 or as both halves",
        )
