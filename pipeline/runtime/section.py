"""What every section of a config has in common: frozen, no unknown keys, and no value taken for another than it is."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, model_validator

# The largest seed that all libraries take: some keep it in 32 bits.
LARGEST_SEED = 2**32 - 1
# Beyond it, libraries fail in ways of their own, and no count of anything is meant.
LARGEST_COUNT = 10**12


class FieldError(ValueError):
    """A value of a section that cannot be used.

    Args:
        field: Its key.
        value: What was given.
        message: What is wrong.
    """

    def __init__(self, field: str, value: Any, message: str) -> None:
        super().__init__(message)
        self.field, self.value = field, value


class Section(BaseModel):
    """A section of a config. Errors are pydantic's, which ``pipeline.config.load`` puts into words."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _as_it_is_meant(cls, values: Any) -> Any:
        # Not for each field: pydantic allows no validator on the one that tells kinds of a section apart.
        for name in values.keys() & cls.model_fields.keys() if isinstance(values, dict) else ():
            kinds = _kinds(cls.model_fields[name].annotation)
            if Any in kinds:
                continue
            try:
                _check(values[name], kinds)
            except ValueError as error:
                raise FieldError(name, values[name], str(error)) from error
        return values


def _kinds(annotation: Any) -> set[Any]:
    """Return the types that an annotation is made of."""
    inner = get_args(annotation)
    return {annotation}.union(*map(_kinds, inner)) if inner else {annotation}


def _check(value: Any, kinds: set[Any]) -> None:
    """Refuse what pydantic would take for something else, or what no file system and no tokenizer takes.

    Raises:
        ValueError: A truth value stands for a number, a date for a text, a number is too large for all libraries, or
            a text holds NUL or half a surrogate pair.
    """
    if isinstance(value, list | tuple):
        for each in value:
            _check(each, kinds)
    if isinstance(value, bool) and bool not in kinds and kinds & {int, float}:
        raise ValueError("a number is wanted; true, false, yes, no, on and off are none")
    if isinstance(value, int) and abs(value) > LARGEST_COUNT:
        raise ValueError(f"the number is beyond {LARGEST_COUNT:,}, and nothing here is as large")
    if isinstance(value, date | datetime) and not kinds & {date, datetime}:
        raise ValueError(f"YAML reads {value} as a date; put it in quotes")
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError("the text holds a NUL character; remove it")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError("the text holds a character that is no Unicode; write it in UTF-8")
