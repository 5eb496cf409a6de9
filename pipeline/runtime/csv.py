"""Rows as comma-separated values that a spreadsheet shows and does not compute."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from typing import IO, Any

from shaping.printable import printable

# What a spreadsheet takes for the beginning of a formula. https://owasp.org/www-community/attacks/CSV_Injection
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def write_csv(rows: Sequence[Mapping[str, Any]], file: IO[str]) -> None:
    """Write the fields of the rows, values inside values under names with dots, ``shape.weights.prefix``.

    Numbers stay numbers, ``None`` is an empty cell. A text that a spreadsheet would compute gets an apostrophe in
    front, the mark of a text.

    Args:
        rows: Plain values; each may have fields that others have not.
        file: A text file.
    """
    flat = [dict(_flat(row)) for row in rows]
    names = _names(flat)
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([_cell(name) for name in names])
    for row in flat:
        writer.writerow([_cell(row.get(name)) for name in names])


def _flat(row: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in row.items():
        name = f"{prefix}{key}"
        found += _flat(value, f"{name}.") if isinstance(value, Mapping) else [(name, value)]
    return found


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return all fields in the order in which they come; one that is flat in a row and not in another is told once."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [name for name in names if not any(other.startswith(f"{name}.") for other in names)]


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    text = printable(str(value))
    return f"'{text}" if text.startswith(FORMULA) else text
