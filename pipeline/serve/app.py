"""The web application: a list of studies and a page for each; reads, and writes nothing."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import anyio
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.report.page import Live
from pipeline.serve.pages import list_page, problem_page
from pipeline.serve.source import Entry, Source, UnknownStudy, Version, mark_of
from shaping.errors import ShapetuneError
from shaping.printable import printable

# A report holds five megabytes of figures' code.
KEPT_PAGES = 8
# From a study's page to the list.
HOME = "../../"
Found = TypeVar("Found")


@dataclass(frozen=True)
class Page:
    """A page as it is sent."""

    mark: str
    status: int
    text: str


def make_app(source: Source, hosts: Sequence[str]) -> Starlette:
    """Return the application.

    Args:
        source: What it serves.
        hosts: Names and addresses that it may be asked for by. Any other one is refused: a page of another site
            could have its name point here and read what is served.
    """
    views = _Views(source)
    routes = [
        Route("/", views.home),
        Route("/version", views.home_version),
        Route("/studies/{key}/", views.study),
        Route("/studies/{key}/version", views.study_version),
    ]
    middleware = [
        Middleware(SafeHeaders),
        # A report is five megabytes of text, sent anew whenever the study has moved on.
        Middleware(GZipMiddleware, compresslevel=4),
        Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
    ]
    return Starlette(routes=routes, middleware=middleware)


class _Views:
    """Answers requests; what takes time happens in threads, and once for all who ask for it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._home = "" if source.only else HOME
        self._pages: OrderedDict[str, Page] = OrderedDict()
        # One page at a time: all of them compete for the same processors.
        self._making = anyio.Lock()

    async def home(self, request: Request) -> Response:
        if self._source.only is not None:
            return RedirectResponse(f"studies/{self._source.only}/")
        found = await _attempt(self._source.entries)
        if isinstance(found, _Problem):
            return _sent(found.page(""))
        live = Live(_mark(found), "", "This list stays up to date.")
        return HTMLResponse(await run_sync(list_page, found, self._source.place, live))

    async def home_version(self, request: Request) -> Response:
        found = await _attempt(self._source.entries)
        mark = found.mark if isinstance(found, _Problem) else _mark(found)
        return JSONResponse({"version": mark, "now": "This list stays up to date."})

    async def study(self, request: Request) -> Response:
        key = request.path_params["key"]
        version = await _attempt(self._source.version, key)
        if isinstance(version, _Problem):
            return _sent(version.page(self._home))
        page = self._kept(key, version)
        if page is None:
            async with self._making:
                page = self._kept(key, version) or await self._make(key, version)
        return _sent(page)

    async def study_version(self, request: Request) -> Response:
        found = await _attempt(self._source.version, request.path_params["key"])
        if isinstance(found, _Problem):
            return JSONResponse({"version": found.mark, "now": found.heading}, found.status)
        return JSONResponse({"version": found.mark, "now": found.now})

    def _kept(self, key: str, version: Version) -> Page | None:
        page = self._pages.get(key)
        if page is None or page.mark != version.mark:
            return None
        self._pages.move_to_end(key)
        return page

    async def _make(self, key: str, version: Version) -> Page:
        live = Live(version.mark, self._home, version.now)
        made = await _attempt(self._source.page, key, live)
        if isinstance(made, _Problem):
            return made.page(self._home, version.mark)
        page = self._pages[key] = Page(version.mark, 200, made)
        self._pages.move_to_end(key)
        while len(self._pages) > KEPT_PAGES:
            self._pages.popitem(last=False)
        return page


@dataclass(frozen=True)
class _Problem:
    """Why there is no page."""

    status: int
    heading: str
    text: str
    hint: str

    @property
    def mark(self) -> str:
        return mark_of(self.status, self.heading, self.text)

    def page(self, home: str, mark: str = "") -> Page:
        live = Live(mark or self.mark, home, "This page looks again by itself.")
        return Page(live.version, self.status, problem_page(self.heading, self.text, self.hint, live))


async def _attempt(read: Callable[..., Found], *arguments: object) -> Found | _Problem:
    """Return what a thread read, or what is to be said in its place; nobody is shown a trace."""
    try:
        return await run_sync(read, *arguments, abandon_on_cancel=True)
    except UnknownStudy:
        return _Problem(404, "No such study", "No study is kept under this address.", "The list shows those there are.")
    except ShapetuneError as error:
        return _Problem(503, "This cannot be shown now", error.message, error.hint)
    except OSError as error:
        return _Problem(503, "This cannot be shown now", printable(str(error)), "")
    except Exception as error:
        # A page is one of many; whoever started the server is told where to look.
        print(printable(f"error: {read.__qualname__}: {type(error).__name__}: {error}"), file=sys.stderr)
        text = f"An error that was not foreseen: {type(error).__name__}."
        return _Problem(500, "This cannot be shown", text, "shapetune report shows where it comes from.")


def _mark(entries: Sequence[Entry]) -> str:
    return mark_of(*entries)


def _sent(page: Page) -> Response:
    return HTMLResponse(page.text, page.status)


HEADERS = {
    # As in the report itself, and what only a header can say: no page of another site may frame it.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Studies are nobody else's, also not those who use the browser later.
    "Cache-Control": "no-store",
}


class SafeHeaders:
    """Adds them.

    Args:
        app: What answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, sent)
