"""Keeps Ax from running what a database holds: it hands stored expressions to SymPy, which evaluates them as Python.

A derived parameter, a metric or an objective of a stored experiment is a string. Ax forbids quotes and brackets in it,
but not calls, and ``exec`` of a sum of ``chr`` needs neither: whoever may write to a study's database could run code
wherever the study is launched. This lets through sums and products of names and numbers, which is all that a study of
ours ever stores.
"""

from __future__ import annotations

import re
from typing import Any

import ax.core.derived_metric as derived_metric
import ax.core.parameter as parameter
import ax.utils.common.sympy as expressions
from ax.utils.common.sympy import sympify

from shaping.errors import ShapetuneError

TOKEN = re.compile(r"\s*(?:([A-Za-z_]\w*)|(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)|(<=|>=|==|[-+*/(),<>]))")


def is_plain(expression: str) -> bool:
    """Return whether a text holds names, numbers, signs and grouping only: no call, no attribute, no power."""
    rest, before = expression.strip(), ""
    while rest:
        found = TOKEN.match(rest)
        if found is None:
            return False
        token, operand = found[0].strip(), found[3] is None
        follows_operand = before == "operand" or before == ")"
        if follows_operand and (operand or token == "("):
            return False
        if token in "*/" and before == token:
            return False
        before, rest = "operand" if operand else token, rest[found.end() :].lstrip()
    return True


def plain_sympify(expression: Any, *arguments: Any, **options: Any) -> Any:
    """Return what SymPy makes of a plain expression.

    Raises:
        ShapetuneError: It is something else.
    """
    if not isinstance(expression, str) or not is_plain(expression):
        raise ShapetuneError(
            f"{str(expression)[:80]!r} is no sum of parameters or metrics: Shapetune did not write this",
            "do not use this database; if it is shared, ask who else writes to it",
        )
    return sympify(expression, *arguments, **options)


def install() -> None:
    """Make Ax read plain expressions only, in this process."""
    for module in (parameter, expressions, derived_metric):
        module.sympify = plain_sympify
