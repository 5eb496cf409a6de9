"""A study's database is not trusted: Ax evaluates expressions that stand in it, unless they are plain sums."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from ax.storage.sqa_store.sqa_classes import DomainType
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import sympify

from pipeline.config.load import parse_config
from pipeline.search.ax_patches import is_plain
from pipeline.search.outer_loop import OuterLoop
from pipeline.storage.keys import REASON
from search_spaces import BaselineArm, CreditMix, StudySpace
from shaping.errors import ConfigError, ShapetuneError
from shaping.shape import Shape

CONFIG = parse_config({"name": "stored", "search": {"trials": 6, "sobol_trials": 0}}, "test")


def open_loop(database: Path, space: Any = None) -> OuterLoop:
    return OuterLoop(CONFIG.name, space or CONFIG.make_space(), database, CONFIG.search)


def code(statement: str) -> str:
    """Return an expression that runs a statement without the quotes and brackets that Ax forbids."""
    return f"weight_prefix + exec({'+'.join(f'chr({ord(letter)})' for letter in statement)})"


def test_an_expression_in_the_database_is_not_run(tmp_path: Path) -> None:
    database, planted = tmp_path / "study.db", tmp_path / "planted"
    open_loop(database)
    with sqlite3.connect(database) as connection:
        connection.execute(
            "insert into parameter_v2 (domain_type, experiment_id, name, parameter_type, expression_str) "
            "values (?, 1, 'planted', 2, ?)",
            (DomainType.DERIVED.value, code(f"open('{planted}', 'w')")),
        )
    with pytest.raises(ShapetuneError, match="no sum of parameters"):
        open_loop(database)
    assert not planted.exists()


def test_a_metric_in_the_database_is_not_run(tmp_path: Path) -> None:
    database, planted = tmp_path / "study.db", tmp_path / "planted"
    open_loop(database)
    properties = {
        "__type": "ExpressionDerivedMetric",
        "name": "planted",
        "input_metric_names": ["objective"],
        "expression_str": code(f"open('{planted}', 'w')"),
    }
    with sqlite3.connect(database) as connection:
        rows = connection.execute("update experiment_v2 set properties = ?", (json.dumps({"a": properties}),)).rowcount
        connection.execute("update metric_v2 set properties = ?, metric_type = 10", (json.dumps(properties),))
    assert rows == 1
    with pytest.raises(Exception):  # noqa: B017, whatever Ax makes of it
        open_loop(database)
    assert not planted.exists()


@pytest.mark.parametrize(
    "text",
    [
        code("pass"),
        "exec (x)",
        "(exec)(x)",
        "(lambda: x)()",
        "().__class__",
        "x.__class__",
        "9**9**9",
        "x if y else z",
        "x[0]",
        "'x'",
        "x; y",
        "x\\y",
        "f\u00fc(x)",
        "!x",
    ],
)
def test_code_is_no_plain_expression(text: str) -> None:
    assert not is_plain(text)


NAMES = st.from_regex(r"[a-z_][a-z_0-9]{0,8}", fullmatch=True)
TERMS = st.tuples(NAMES, st.floats(-1e6, 1e6)).map(lambda pair: f"{pair[1]!r} * {pair[0]}")


@settings(deadline=None)
@given(st.lists(TERMS, min_size=1, max_size=4), st.sampled_from(["<=", ">="]), st.floats(-1e6, 1e6))
def test_linear_constraints_are_plain(terms: list[str], sign: str, bound: float) -> None:
    assert is_plain(f"{' + '.join(terms)} {sign} {bound!r}")


@settings(deadline=None)
@given(st.text("ab_1.()+-*/,<>= e'[", max_size=12))
def test_what_is_plain_calls_nothing(text: str) -> None:
    called: list[str] = []
    names = {name: lambda *_: called.append("called") for name in ("a", "b", "ab", "ba", "aa", "bb")}
    if is_plain(text):
        try:
            eval(text.strip(), {"__builtins__": {}}, names)
        except Exception:
            pass
        assert not called


class Names(CreditMix):
    """A space of one's own whose arm has a name that would be SQL, a path and markup."""

    hostile = '\'); DROP TABLE trial_v2; -- "../../x" <script> %s {0} [red]'

    def baselines(self) -> list[BaselineArm]:
        first, *others = super().baselines()
        return [first, BaselineArm(self.hostile, others[0].point)]


def test_names_and_reasons_come_back_from_the_database_as_they_went_in(tmp_path: Path) -> None:
    database = tmp_path / "study.db"
    space = StudySpace(Names(base=CONFIG.base_shape(), methods=("prefix", "shapley")))
    loop = open_loop(database, space)
    first, second = loop.ask(), loop.ask()
    assert first is not None and second is not None and second.arm == Names.hostile
    loop.fail(second.index, Names.hostile)
    again = open_loop(database, space)
    assert [row["arm"] for row in again.trials()] == ["sparse", Names.hostile]
    assert [row["status"] for row in again.trials()] == ["running", "abandoned"]
    assert again._experiment.trials[1].run_metadata[REASON] == Names.hostile


@pytest.mark.parametrize("name", ["kl_nats", "kl_over_sparse", "certificate_error"])
@pytest.mark.parametrize("value", ["__import__('os')", "1) or exec(chr(49)", [1], {"a": 1}, float("nan")])
def test_limits_that_ax_evaluates_are_numbers(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        parse_config({"name": "limits", "search": {"constraints": {name: value}}}, "test")


@pytest.mark.parametrize("method", ["prefix + exec(x)", "__import__", "prefix;", "prefix <= 1"])
def test_methods_whose_names_become_expressions_are_known_ones(method: str) -> None:
    with pytest.raises(ConfigError, match=r"space\.methods"):
        parse_config({"name": "methods", "space": {"methods": [method]}}, "test")


def test_the_oracle_holds_that_sympy_runs_what_is_not_plain(tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    with pytest.raises(TypeError):
        sympify(code(f"open('{planted}', 'w')"))
    assert planted.exists()


def test_every_shape_of_a_hostile_point_is_refused() -> None:
    with pytest.raises(ConfigError):
        Shape.from_dict({"weights": {"<script>": 1.0}})
