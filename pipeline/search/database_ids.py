"""The numbers that a database gave to Ax's objects, kept so that a transaction that failed can be done again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ax.storage.sqa_store.utils import COPY_DB_IDS_ATTRS_TO_SKIP
from ax.utils.common.base import Base

NUMBER = "_db_id"
# An object, one of its attributes, and the value.
Ids = list[tuple[Any, str, int | None]]


def ids_below(roots: Iterable[Any]) -> Ids:
    """Return the numbers of objects and of all that they consist of, as far as Ax gives numbers."""
    found: Ids = []
    seen: set[int] = set()
    waiting = list(roots)
    while waiting:
        each = waiting.pop()
        if isinstance(each, Mapping):
            waiting += each.values()
        elif isinstance(each, list | tuple | set):
            waiting += each
        elif isinstance(each, Base) and id(each) not in seen:
            seen.add(id(each))
            # An object without a number has none of its own.
            for name, value in {NUMBER: None, **vars(each)}.items():
                if name.endswith(NUMBER):
                    found.append((each, name, value))
                elif name not in COPY_DB_IDS_ATTRS_TO_SKIP:
                    waiting.append(value)
    return found


def restore_ids(ids: Ids) -> None:
    """Give objects the numbers back that they had."""
    for each, name, value in ids:
        setattr(each, name, value)
