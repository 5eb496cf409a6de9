"""Everything of Ax that is private or replaced here, in one file: an upgrade of Ax is checked against this one first.

Two functions of Ax are replaced. Its filter of points tests ``A x <= b`` without tolerance, while its acquisition puts
points on faces up to rounding: running trials there vanish from the pending points and are proposed again. And it hands
stored expressions to SymPy, which evaluates them as Python: whoever may write to a study's database could run code
wherever the study is launched.
"""

from __future__ import annotations

import re
from typing import Any

import ax.core.derived_metric as derived_metric
import ax.core.parameter as parameter
import ax.generators.torch.utils as torch_utils
import ax.utils.common.sympy as expressions
from ax.generators.utils import filter_constraints_and_fixed_features
from ax.utils.common.sympy import sympify

from shaping.errors import ShapetuneError

# Each private name that is used below: why, and what would replace it.
PRIVATE_NAMES = {
    "_experiment": "Client shows no experiment; a public property of it would do",
    "_generation_strategy_or_choose": "Client shows no generation strategy; a public property of it would do",
    "_generator_runs": "which runs of a strategy are not stored yet; a strategy that saves itself in a transaction",
    "_generation_node_name": "whether Sobol or the model proposed a trial; a public property of GeneratorRun",
    "_properties": "an experiment's own notes are read through its database only; a public setter",
    "_to_json_snapshot": "save_to_json_file may leave half a file; a public method that returns the text",
    "_db_id": "numbers of objects whose transaction failed; a save function that leaves objects alone on errors",
}
# Public names whose functions are replaced: why, and until when.
REPLACED_NAMES = {
    "ax.generators.torch.utils.filter_constraints_and_fixed_features": "no tolerance; until Ax's filter has one",
    "ax.core.parameter.sympify": "evaluates what a database holds; until Ax parses expressions itself",
    "ax.utils.common.sympy.sympify": "the same",
    "ax.core.derived_metric.sympify": "the same",
}
# Far less than any two proposals differ by.
TOLERANCE = 1e-8
# Ends the names of the numbers that a database gave to an object.
DATABASE_NUMBER = "_db_id"
TOKEN = re.compile(r"\s*(?:([A-Za-z_]\w*)|(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)|(<=|>=|==|[-+*/(),<>]))")


def install() -> None:
    """Replace Ax's filter by a tolerant one, and its reader of expressions by a plain one, in this process."""
    torch_utils.filter_constraints_and_fixed_features = tolerant_filter
    for module in (parameter, expressions, derived_metric):
        module.sympify = plain_sympify


def experiment_of(client: Any) -> Any:
    """Return the experiment that a client holds."""
    return client._experiment


def strategy_of(client: Any) -> Any:
    """Return the generation strategy that a client holds."""
    return client._generation_strategy_or_choose()


def snapshot_of(client: Any) -> dict[str, Any]:
    """Return a client as plain values."""
    values: dict[str, Any] = client._to_json_snapshot()
    return values


def unsaved_runs(strategy: Any) -> list[Any]:
    """Return the generator runs of a strategy that no database holds yet."""
    return [run for run in strategy._generator_runs if run.db_id is None]


def node_of(generator_run: Any) -> str | None:
    """Return the name of the node that generated a run; ``None`` for arms that were attached."""
    name: str | None = generator_run._generation_node_name
    return name


def properties_of(experiment: Any) -> dict[str, Any]:
    """Return an experiment's own notes, which its database keeps; they may be changed."""
    notes: dict[str, Any] = experiment._properties
    return notes


def tolerant_filter(
    X: Any, bounds: Any, linear_constraints: Any = None, fixed_features: dict[int, float] | None = None
) -> Any:
    """Return the points of ``X`` inside bounds and constraints, with a tolerance of 1e-8."""
    if linear_constraints is not None:
        matrix, limit = linear_constraints
        linear_constraints = (matrix, limit + TOLERANCE)
    wider = [(low - TOLERANCE, high + TOLERANCE) for low, high in bounds]
    return filter_constraints_and_fixed_features(X, wider, linear_constraints, fixed_features)


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
