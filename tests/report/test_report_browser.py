"""The report in a real browser: everything is drawn, nothing is asked of the network, and what can be used works."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from pipeline.report.load import load_report_data
from pipeline.report.page import write_report
from tests.support.reports.synthetic_study import SyntheticStudy
from tests.support.servers.browser import DRAWN, PHONE, Visit, address_of

SECTIONS = ("verdict", "curves", "landscape", "trials", "mattered", "tokens", "ax", "provenance")
# What the text looks like on what is behind it: WCAG's contrast of two colours.
CONTRAST = """(element) => {
    const light = (colour) => {
        const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => {
            const share = Number(part) / 255;
            return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
    };
    const [ink, paper] = [getComputedStyle(element).color, getComputedStyle(document.body).backgroundColor].map(light);
    return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
}"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study that has everything: stopped and failed trials, a verdict, a model, Ax's cards."""
    study = SyntheticStudy(tmp_path_factory.mktemp("browser") / "synthetic")
    study.search()
    study.early_stopping()
    study.sensitivity()
    study.confirm(top=2)
    study.tokens()
    return write_report(load_report_data(study.folder, modelled=True, with_ax=True), study.folder.report_file)


@pytest.fixture
def visit(browser: Browser, report: Path) -> Iterator[Visit]:
    opened = Visit(browser, address_of(report))
    yield opened
    opened.close()


def test_every_section_and_every_figure_is_drawn(visit: Visit) -> None:
    visit.unfold()
    for section in SECTIONS:
        box = visit.page.locator(f"section#{section}").bounding_box()
        assert box is not None and box["height"] > 60, section
    figures = visit.page.locator("[data-figure]")
    assert figures.count() > 20
    for place in range(figures.count()):
        box = figures.nth(place).locator("svg.main-svg").first.bounding_box()
        assert box is not None and box["width"] > 200 and box["height"] > 150


def test_the_page_complains_of_nothing_and_asks_nobody(visit: Visit, report: Path) -> None:
    visit.unfold()
    visit.page.mouse.wheel(0, 5000)
    assert visit.complaints == []
    assert visit.requests == [address_of(report)]


def test_a_page_that_did_ask_would_be_seen(browser: Browser, tmp_path: Path) -> None:
    """The check above can fail: without the policy, an image of another host is a request."""
    page = tmp_path / "page.html"
    page.write_text('<img src="http://127.0.0.1:9/x.png"><script>throw new Error("seen")</script>')
    opened = Visit(browser, address_of(page))
    assert "http://127.0.0.1:9/x.png" in opened.requests
    assert any("seen" in complaint for complaint in opened.complaints)
    opened.close()


def test_the_policy_stops_what_a_page_would_ask_for(browser: Browser, report: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(report.read_text().replace("</body>", '<img src="http://127.0.0.1:9/x.png"></body>'))
    opened = Visit(browser, address_of(page))
    assert opened.page.evaluate("document.images[0].naturalWidth") == 0
    assert any("Content Security Policy" in complaint for complaint in opened.complaints)
    opened.close()


def test_folded_figures_are_drawn_once_they_are_opened(visit: Visit) -> None:
    folded = visit.page.locator("#landscape details")
    inside = folded.locator("[data-figure]")
    assert inside.count() == 6 and folded.locator("svg.main-svg").count() == 0
    folded.locator("summary").click()
    visit.page.wait_for_function(DRAWN)
    assert all(inside.nth(place).locator("svg.main-svg").count() for place in range(6))


def test_switching_the_metric_changes_the_curves_that_are_seen(visit: Visit) -> None:
    shown = "document.getElementById('curves-figure').data.filter((t) => t.visible !== false).map((t) => t.meta.metric)"
    assert set(visit.page.evaluate(shown)) == {"objective"}
    visit.page.locator(".switch button[data-metric=kl_nats]").click()
    visit.page.wait_for_function(f"() => ({shown}).every((metric) => metric === 'kl_nats')")
    assert visit.page.locator(".switch button[aria-pressed=true]").inner_text() == "KL"
    assert "KL" in visit.page.locator("#curves-figure .ytitle").text_content()


def column(visit: Visit, place: int) -> list[str]:
    cells = visit.page.locator(f"#trials table.sortable >> nth=0 >> tbody tr:visible td:nth-child({place})")
    return [cell.strip() for cell in cells.all_inner_texts()]


def test_clicking_a_heading_sorts_and_clicking_again_turns_round(visit: Visit) -> None:
    heading = visit.page.locator("#trials table.sortable >> nth=0 >> th button", has_text="#").first
    before = column(visit, 1)
    heading.click()
    assert column(visit, 1) == sorted(before, key=int, reverse=True) != before
    heading.click()
    assert column(visit, 1) == sorted(before, key=int)
    assert visit.page.locator("#trials th[aria-sort=ascending]").count() == 1


def test_a_heading_is_sorted_by_from_the_keyboard(visit: Visit) -> None:
    heading = visit.page.locator("#trials table.sortable >> nth=0 >> th button", has_text="#").first
    heading.focus()
    visit.page.keyboard.press("Enter")
    assert column(visit, 1) == sorted(column(visit, 1), key=int, reverse=True)


def test_pointing_at_a_token_says_its_number(visit: Visit) -> None:
    sample = visit.page.locator(".sample").first
    token = sample.locator(".row", has_text="prefix").locator(".tokens .token").nth(3)
    token.scroll_into_view_if_needed()
    token.hover()
    reading = sample.locator(".reading").inner_text()
    assert reading.startswith("prefix: ") and str(token.get_attribute("title")) in reading


def test_pointing_at_a_trial_in_a_triangle_says_its_shape(visit: Visit) -> None:
    figure = visit.page.locator("#mean-1-figure")
    figure.scroll_into_view_if_needed()
    # The trials' markers alone have a white rim.
    box = figure.locator(".trace .point[style*='rgb(255, 255, 255)']").first.bounding_box()
    assert box is not None
    visit.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    visit.page.wait_for_selector("#mean-1-figure .hoverlayer .hovertext")
    assert "lambda" in visit.page.locator("#mean-1-figure .hoverlayer").text_content()


def test_a_curve_is_read_where_one_points(visit: Visit) -> None:
    figure = visit.page.locator("#curves-figure .nsewdrag")
    figure.scroll_into_view_if_needed()
    box = figure.bounding_box()
    assert box is not None
    visit.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    visit.page.wait_for_selector("#curves-figure .hoverlayer .legend", state="attached")
    assert "winner" in visit.page.locator("#curves-figure .hoverlayer").text_content()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_themes(browser: Browser, report: Path, scheme: Any) -> None:
    opened = Visit(browser, address_of(report), color_scheme=scheme)
    for selector in ("p.note", "h1", "td.shape", ".token.pos", ".ok", ".eyebrow", "figcaption"):
        assert opened.page.locator(selector).first.evaluate(CONTRAST) >= 4.5, selector
    paper = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper.strip("rgb()").split(","))) > 384) == (scheme == "light")
    assert opened.complaints == []
    opened.close()


def test_a_theme_that_changes_recolours_the_figures(visit: Visit) -> None:
    colour = "document.getElementById('curves-figure').layout.font.color"
    light = visit.page.evaluate(colour)
    visit.page.emulate_media(color_scheme="dark")
    visit.page.wait_for_function(f"(before) => {colour} !== before", arg=light)


def test_nothing_on_a_phone_is_wider_than_the_phone(browser: Browser, report: Path) -> None:
    opened = Visit(browser, address_of(report), viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2)
    opened.unfold()
    assert opened.page.evaluate("document.scrollingElement.scrollWidth") <= PHONE["width"]
    sample = opened.page.locator(".sample").first
    token = sample.locator(".tokens .token").nth(2)
    token.scroll_into_view_if_needed()
    token.tap()
    assert sample.locator(".reading").inner_text()
    assert opened.complaints == []
    opened.close()


def test_without_scripts_the_tables_still_stand(browser: Browser, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address_of(report))
    assert page.locator("#trials tbody tr").count() >= 10
    assert page.locator("noscript").first.is_visible()
    context.close()


def test_an_empty_study_is_a_page_that_says_so(browser: Browser, tmp_path: Path) -> None:
    study = SyntheticStudy(tmp_path / "empty")
    data = replace(load_report_data(study.folder, modelled=True))
    opened = Visit(browser, address_of(write_report(data, tmp_path / "empty.html")))
    assert "No trial has started." in opened.page.inner_text("#trials")
    assert opened.complaints == []
    opened.close()
