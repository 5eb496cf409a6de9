"""A real browser opens a hostile report: nothing of it runs, not even where Plotly renders texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.report.load import load_report_data
from pipeline.report.page import render
from tests.support.hostile import OWNED, PAYLOADS, RUN, hostile_study
from tests.support.servers.browser_probe import open_page

# Starts a browser.
pytestmark = pytest.mark.slow


def test_no_hostile_text_runs_in_the_browser(tmp_path: Path) -> None:
    found = open_page(render(load_report_data(hostile_study(tmp_path / "study").folder)), tmp_path)
    assert found["done"] == "yes" and OWNED not in found
    assert found["figures"] == "3" and int(found["hovered"]) > 10 and int(found["reading"]) > 0
    assert (found["links"], found["images"], found["handlers"]) == ("0", "0", "0")


@pytest.mark.parametrize("payload", [PAYLOADS[0], PAYLOADS[3]])
def test_the_probe_notices_what_runs(payload: str, tmp_path: Path) -> None:
    page = "<html><head></head><body><p class=reading>x</p>" + payload + "</body></html>"
    assert RUN in page
    assert open_page(page, tmp_path)[OWNED] == "1"
