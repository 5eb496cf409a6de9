"""Served studies in a real browser: the list, a report that renews itself, and nobody else who is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from shaping.shape import Shape
from tests.support.hostile import OWNED, hostile_study
from tests.support.reports.synthetic_study import SyntheticStudy
from tests.support.servers.browser import PHONE, Visit
from tests.support.servers.serving import served


@pytest.fixture
def study(tmp_path: Path) -> SyntheticStudy:
    """A study that has searched and confirmed nothing yet, in a folder of studies."""
    made = SyntheticStudy(tmp_path / "studies" / "running")
    made.search()
    SyntheticStudy(tmp_path / "studies" / "begun")
    return made


@pytest.fixture
def address(study: SyntheticStudy) -> Iterator[str]:
    with served(str(study.folder.root.parent), "--port", "0") as (_, found):
        yield found


def test_the_list_leads_to_a_report_and_back_and_asks_nobody_else(browser: Browser, address: str) -> None:
    opened = Visit(browser, address)
    opened.page.get_by_role("link", name="running").click()
    opened.page.wait_for_selector("#curves-figure svg.main-svg")
    assert opened.page.locator("#landscape h2").is_visible()
    opened.page.get_by_role("link", name="All studies").click()
    opened.page.get_by_role("link", name="begun").click()
    opened.page.wait_for_selector("text=No trial has started.")
    assert all(request.startswith(address) or request == "data:," for request in opened.requests)
    assert opened.complaints == []
    opened.close()


def test_a_page_shows_a_new_trial_by_itself_and_keeps_its_place(
    browser: Browser, address: str, study: SyntheticStudy
) -> None:
    opened = Visit(browser, f"{address}studies/running/")
    before = opened.page.locator("#trials tbody tr").count()
    opened.page.locator("#tokens").scroll_into_view_if_needed()
    top = opened.page.evaluate("scrollY")
    assert top > 500
    study.trial(20, "20_0", "model", Shape(weights={"prefix": 0.75, "attention": 0.25}, gae_lambda=0.7), 1.4)
    opened.page.wait_for_selector("text=0.25 attention + 0.75 prefix, lambda 0.70", state="attached")
    assert opened.page.locator("#trials tbody tr").count() == before + 1
    opened.page.wait_for_function("(top) => Math.abs(scrollY - top) < 2", arg=top)
    assert opened.complaints == []
    opened.close()


def test_a_page_that_renews_itself_keeps_what_was_sorted_filtered_and_chosen(
    browser: Browser, address: str, study: SyntheticStudy
) -> None:
    opened = Visit(browser, f"{address}studies/running/")
    page = opened.page
    page.wait_for_selector("#curves-figure svg.main-svg")
    heading = page.locator("#trials .sortable th").filter(has_text="J").first
    for _ in range(2):
        heading.get_by_role("button").click()
    page.locator("#trials-filter input").fill("prefix")
    chip = page.locator("#trials-filter .chips button").first
    chip.click()
    metric = page.locator("#curves .switch button").nth(2)
    metric.click()
    chosen = [heading.get_attribute("aria-sort"), chip.inner_text(), metric.inner_text()]
    assert chosen[0] == "ascending" and metric.get_attribute("aria-pressed") == "true"
    study.trial(20, "20_0", "model", Shape(weights={"prefix": 0.75, "attention": 0.25}, gae_lambda=0.7), 1.4)
    page.wait_for_selector("text=0.25 attention + 0.75 prefix, lambda 0.70", state="attached")
    page.wait_for_function("document.querySelectorAll('#curves .switch button')[2].ariaPressed === 'true'")
    assert [heading.get_attribute("aria-sort"), chip.inner_text(), metric.inner_text()] == chosen
    assert page.locator("#trials-filter input").input_value() == "prefix"
    assert chip.get_attribute("aria-pressed") == "true"
    shown = page.locator("#trials .sortable").first.locator("tbody tr:visible")
    assert all("prefix" in row for row in shown.all_inner_texts()) and shown.count() > 0
    assert opened.complaints == []
    opened.close()


def test_a_server_that_has_gone_leaves_the_page_and_says_so(browser: Browser, study: SyntheticStudy) -> None:
    with served(str(study.folder.root.parent), "--port", "0") as (process, found):
        opened = Visit(browser, f"{found}studies/running/")
        process.kill()
        opened.page.wait_for_selector("text=The server does not answer.")
        assert opened.page.locator("#curves-figure svg.main-svg").count() >= 1
        opened.close()


def test_a_phone_shows_list_and_report_without_scrolling_sideways(browser: Browser, address: str) -> None:
    for place in (address, f"{address}studies/running/"):
        opened = Visit(browser, place, viewport=PHONE, has_touch=True, is_mobile=True)
        assert opened.page.evaluate("document.scrollingElement.scrollWidth") <= PHONE["width"]
        opened.close()


def test_no_hostile_text_of_a_served_study_runs(browser: Browser, tmp_path: Path) -> None:
    hostile_study(tmp_path / "studies" / "hostile")
    with served(str(tmp_path / "studies"), "--port", "0") as (_, found):
        opened = Visit(browser, found)
        assert opened.page.evaluate("document.documentElement.dataset") == {}
        opened.page.locator("a[href^='studies/']").first.click()
        opened.page.wait_for_load_state()
        opened.page.wait_for_selector("h1")
        assert OWNED not in opened.page.evaluate("({...document.documentElement.dataset})")
        opened.close()
