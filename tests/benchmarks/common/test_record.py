"""What a benchmark leaves behind, in the documentation too."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.common import record
from benchmarks.common.record import plain, show, write


def test_a_name_in_a_claim() -> None:
    assert plain("SCAR, token (0.5)") == "scar_token_0_5"


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["x", "--quick"])
    write("speed", [], "| a |", {}, "c")
    return tmp_path


def test_the_page_shows_command_date_and_table_and_keeps_the_rest(results: Path) -> None:
    page = results / "benchmarks.md"
    around = ("before\n<!-- measured: other -->\nkept\n<!-- end -->\n", "after\n<!-- end -->\n")
    page.write_text(f"{around[0]}<!-- measured: speed -->\nold\n<!-- end -->\n{around[1]}")
    for _ in range(2):
        show("speed", "| a |\n| b |", page)
        told = f"`python -m benchmarks.speed --quick`, {record.today()}.\n\n| a |\n| b |\n\n"
        assert page.read_text() == f"{around[0]}<!-- measured: speed -->\n{told}<!-- end -->\n{around[1]}"


@pytest.mark.parametrize("told", ["nothing", "<!-- measured: speed -->\n", "<!-- measured: speedy -->\n<!-- end -->\n"])
def test_a_page_without_its_marks_is_left_as_it_is(told: str, results: Path) -> None:
    page = results / "benchmarks.md"
    page.write_text(told)
    with pytest.raises(ValueError, match="has no <!-- measured: speed -->"):
        show("speed", "| a |", page)
    assert page.read_text() == told
