"""A real browser for the tests: Debian's Chromium, and a page that remembers whatever went wrong in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.servers.starting import starts
from tests.support.waiting import LIMIT_MS

# Set to leave out what needs a browser; without it, a machine that has none fails the tests.
WITHOUT = "SHAPETUNE_TESTS_WITHOUT_BROWSER"
NAMES = ("chromium", "chromium-browser", "google-chrome")
LAPTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
# Whether every figure that is not folded away has been drawn.
DRAWN = """() => [...document.querySelectorAll("[data-figure]")]
    .filter((place) => !place.closest("details:not([open])"))
    .every((place) => place.querySelector("svg.main-svg"))"""


def chromium() -> str:
    """Return the browser's path; where there is none, skip if that was asked for, else fail."""
    starts("a browser")
    if os.environ.get(WITHOUT):
        pytest.skip(f"{WITHOUT} is set")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.fail(f"no chromium: apt-get install chromium, or set {WITHOUT}=1", pytrace=False)
    return found


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser without a window."""
    path = chromium()
    with sync_playwright() as driver:
        # Tests may run as root, for whom its sandbox does not start; what is opened is our own.
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"], timeout=LIMIT_MS)
        yield browser
        browser.close()


class Visit:
    """A page that was opened, with what it asked for and complained of.

    Attributes:
        page: Playwright's.
        requests: Addresses that it asked for, its own first.
        complaints: Errors and warnings of its console, and exceptions that nobody caught.
    """

    def __init__(self, browser: Browser, address: str, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": LAPTOP, **options})
        # Of whatever is waited for in it.
        self.context.set_default_timeout(LIMIT_MS)
        self.page: Page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda said: self._heard(said.type, said.text))
        self.page.goto(address)
        self.page.wait_for_function(DRAWN)

    def _heard(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(f"{kind}: {text}")

    def unfold(self) -> None:
        """Open everything that is folded, and wait until its figures are drawn."""
        self.page.evaluate("() => document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        self.page.wait_for_function(DRAWN)

    def close(self) -> None:
        """Close the page."""
        self.context.close()


def address_of(path: Path) -> str:
    """Return a file's address."""
    return path.resolve().as_uri()
