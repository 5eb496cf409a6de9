"""Pages that are no report: the list of studies, a study of a database, and what went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.report import page as report_page
from pipeline.report import words
from pipeline.report.page import Live
from pipeline.serve.source import Entry
from pipeline.study.status import best_of, tried_in_words


def list_page(entries: Sequence[Entry], place: str, live: Live) -> str:
    """Return the list of studies; ``place`` is where they are kept."""
    return _render("list.html.j2", entries=entries, title="Studies", place=place, live=live)


def stored_page(found: dict[str, Any], place: str, live: Live) -> str:
    """Return a study as its database holds it.

    Args:
        found: As ``read_stored_status`` returns it.
        place: The database.
        live: What keeps the page up to date.
    """
    shapes = {row["index"]: tried_in_words(row) for row in found["trials"] if row["shape"]}
    known = {"found": found, "shapes": shapes, "best": best_of(found["trials"])}
    return _render("stored.html.j2", title=found["study"], place=place, live=live, **known)


def problem_page(heading: str, text: str, hint: str, live: Live) -> str:
    """Return a page that says what is wrong; it looks again, as all others do."""
    return _render("problem.html.j2", title=heading, text=text, hint=hint, live=live)


def _render(name: str, **values: Any) -> str:
    return _ENVIRONMENT.get_template(name).render(words=words, **values)


_ENVIRONMENT = Environment(
    loader=FileSystemLoader([Path(each).parent / "templates" for each in (__file__, report_page.__file__)]),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
