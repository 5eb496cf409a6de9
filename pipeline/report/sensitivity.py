"""Which parameter mattered, in a reader's words: what the model of J holds, with names and directions to read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.data import Sensitivity
from search_spaces import StudySpace

WEIGHT, LAMBDA = "weight_", "gae_lambda"
SHARE = "share of "
# Ax turns an unordered choice into one column for each of its values.
COLUMN = re.compile(r"(.+)_OH_PARAM_(\d+)")


def read_sensitivity(content: Mapping[str, Any], space: StudySpace) -> tuple[Sensitivity, ...]:
    """Return what is known of each parameter, the one that matters most first.

    Args:
        content: Parameter to ``total``, ``first`` and ``direction``. Where the model's mean is flat they are no
            numbers; such parameters are left out.
        space: Knows the values that a choice has.

    Raises:
        KeyError: A parameter lacks an index.
        ValueError: An index is not a number.
    """
    choices = {each.name: list(each.values) for each in space.parameters() if hasattr(each, "values")}
    rows = []
    for name, indices in content.items():
        total, first, sign = (float(indices[key]) for key in ("total", "first", "direction"))
        if math.isfinite(total) and math.isfinite(first):
            # Both are estimates: the part may come out larger than the whole, and a whole beyond its bounds.
            total = min(max(total, 0.0), 1.0)
            words, direction = _words(str(name), sign, choices)
            rows.append(Sensitivity(words, total, min(max(first, 0.0), total), direction))
    return tuple(sorted(rows, key=lambda row: -row.total))


def _words(name: str, sign: float, choices: Mapping[str, Sequence[Any]]) -> tuple[str, str]:
    """Return a parameter's name and which way it leads to a higher J, both to be read."""
    column = COLUMN.fullmatch(name)
    if column and column[1] in choices and int(column[2]) < len(choices[column[1]]):
        # A value is taken or not; that it is the better one shows in the mean over all others.
        value = choices[column[1]][int(column[2])]
        return f"{column[1]} is {value}", _signed(sign, "better", "worse")
    if name in choices:
        # Ordered, so that there is a slope: towards the last value or the first.
        return name, _signed(sign, f"towards {choices[name][-1]} is better", f"towards {choices[name][0]} is better")
    words = SHARE + name.removeprefix(WEIGHT) if name.startswith(WEIGHT) else name
    return "lambda" if name == LAMBDA else words, _signed(sign, "more is better", "more is worse")


def _signed(sign: float, above: str, below: str) -> str:
    return above if sign > 0 else below if sign < 0 else "no direction"
