"""Models that a command has to build first: what it says meanwhile."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.runtime.console import open_console
from pipeline.trials import task_models
from tests.support.studies import tiny_config


@pytest.mark.parametrize("unbuilt", ["training a policy, once: minutes", ""])
def test_a_log_says_what_is_built_before_it_is_built(
    unbuilt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = open_console(file=io.StringIO(), width=40)
    said_before = []

    def prepare(*_: object) -> Path:
        said_before.append(console.file.getvalue())  # type: ignore[attr-defined]
        return tmp_path

    kind = SimpleNamespace(unbuilt=lambda *_: unbuilt, prepare=prepare)
    monkeypatch.setattr(task_models, "task_kind", lambda _: kind)
    assert task_models.build_assets(tiny_config(), console) == tmp_path
    assert said_before == [f"{unbuilt} ...\n" if unbuilt else ""]
    lines = console.file.getvalue().splitlines()[1:]  # type: ignore[attr-defined]
    assert [line.split(", kept in ")[1] for line in lines] == ([str(tmp_path)] if unbuilt else [])
