"""The documentation's site: it builds strictly, and every page works without the network, on a phone as well."""

from __future__ import annotations

import importlib.util
import re
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pytest
from playwright.sync_api import Browser, Error, TimeoutError

from tests.support.servers.browser import LAPTOP, PHONE, address_of

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def script(name: str) -> ModuleType:
    """Return a script of the documentation as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(script("build").build(tmp_path_factory.mktemp("docs")))


def pages(site: Path) -> list[Path]:
    # The page that a server shows for wrong addresses is never opened as a file.
    found = sorted(path for path in site.rglob("*.html") if path.name != "404.html")
    assert len(found) > 25
    return found


class Links(HTMLParser):
    """The addresses that a page links to or loads, and the places in it that links may lead to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.linked: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if "src" in given:
            self.loaded.append(given["src"])
        if "href" in given:
            (self.loaded if tag == "link" else self.linked).append(given["href"])


def test_the_generated_pages_are_current() -> None:
    for file, text in script("generate").pages().items():
        assert (DOCS / file).read_text() == text, f"python docs/generate.py writes {file} anew"


def test_every_page_has_its_place_in_the_navigation() -> None:
    named = re.findall(r'= "([\w-]+\.md)"', (ROOT / "zensical.toml").read_text())
    assert sorted(named) == sorted(path.name for path in DOCS.glob("*.md"))


def test_a_missing_file_or_anchor_fails_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = script("build")
    for name in ("docs", "work"):
        (tmp_path / name).mkdir()
    config = re.sub(r"nav = \[.*?\n\]\n", "", (ROOT / "zensical.toml").read_text(), flags=re.DOTALL)
    (tmp_path / "zensical.toml").write_text(config)
    monkeypatch.setattr(build, "ROOT", tmp_path)
    page = tmp_path / "docs" / "index.md"
    for text, complaint in (
        ("# Home\n\n[there](gone.md)\n", "docs/gone.md"),
        ("# Home\n\n![a picture](../gone.png)\n", "gone.png"),
        ("# Home\n\n[there](#nowhere)\n", "anchor does not exist"),
    ):
        page.write_text(text)
        with pytest.raises(SystemExit, match=complaint):
            build.build(tmp_path / "work")
    page.write_text("# Home\n\n```\n[code](gone.md)\n```\n\n[there](#home)\n")
    assert (build.build(tmp_path / "work") / "index.html").is_file()


def test_links_and_anchors_lead_somewhere(site: Path) -> None:
    known = {page: Links(page) for page in pages(site)}
    for page, links in known.items():
        for address in (*links.linked, *links.loaded):
            place, _, anchor = unquote(address).partition("#")
            if ":" in place.partition("/")[0] or not place:
                target = page
            else:
                target = (page.parent / place).resolve()
                target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), (page.name, address)
            if anchor and target in known:
                assert anchor in known[target].anchors, (page.name, address)


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in pages(site):
        assert [address for address in Links(page).loaded if re.match(r"(?:\w+:)?//", address)] == []


@pytest.mark.slow
@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_every_page_works_in_a_browser(browser: Browser, site: Path, size: dict[str, int]) -> None:
    context = browser.new_context(viewport=size)
    page = context.new_page()
    complaints: list[str] = []
    foreign: list[str] = []
    page.on("request", lambda request: foreign.append(request.url) if address_of(site) not in request.url else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    wide = []
    for file in pages(site):
        page.goto(address_of(file))
        page.evaluate("() => document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        if page.evaluate("() => document.documentElement.scrollWidth > document.documentElement.clientWidth"):
            wide.append(file.name)
        assert page.locator("h1").count() == 1, file.name
    context.close()
    assert (complaints, foreign, wide) == ([], [], [])


@pytest.mark.slow
def test_the_search_finds_a_page_that_was_opened_as_a_file(browser: Browser, site: Path) -> None:
    context = browser.new_context(viewport=LAPTOP)
    page = context.new_page()
    # The index takes a moment: what is asked before it is there, or before the word is whole, opens another or none.
    for wait in range(1, 20):
        # A page that the last question still opens ends this one.
        with suppress(Error):
            page.goto(address_of(site / "index.html"))
            page.keyboard.press("Control+k")
            page.keyboard.type("glossary")
            page.wait_for_timeout(250 * wait)
            page.keyboard.press("Enter")
        with suppress(TimeoutError):
            page.wait_for_url(re.compile(r"concepts\.html"), timeout=1_000 * wait, wait_until="commit")
            break
    assert "concepts.html" in page.url
    context.close()
