"""What is served: studies by key, each with a version that changes when its page would."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Protocol

from pipeline.report.page import Live

# A name that stands in an address as it is; others are told by a hash.
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
KEY_CHARACTERS = 24


class UnknownStudy(Exception):
    """No study is served under this key."""


@dataclass(frozen=True)
class Entry:
    """One study in the list.

    Attributes:
        key: Its part of the address.
        name: As a person knows it.
        state: What it is at, in words.
        trials: How many of its trials are done, in words.
        best: Best observed J; ``None`` where none was observed.
        more: What else is to be said: the verdict, the time left, or what is wrong with it.
        running: Whether somebody runs it.
    """

    key: str
    name: str
    state: str
    trials: str = ""
    best: float | None = None
    more: str = ""
    running: bool = False


@dataclass(frozen=True)
class Version:
    """The state of a page.

    Attributes:
        mark: Changes when the page would.
        now: What happens at this moment, in words; changes without a new page.
    """

    mark: str
    now: str


class Source(Protocol):
    """Studies that can be served. Every method may be called from several threads.

    Attributes:
        place: Where the studies are kept, in words.
        only: The key of the one study that is served; ``None`` where it is a list.
    """

    place: str
    only: str | None

    def entries(self) -> list[Entry]:
        """Return the studies that there are now."""

    def version(self, key: str) -> Version:
        """Return the state of a study's page.

        Raises:
            UnknownStudy: There is none.
        """

    def page(self, key: str, live: Live) -> str:
        """Return a study's page.

        Raises:
            UnknownStudy: There is none.
            ShapetuneError: It cannot be read.
        """


def key_of(name: str) -> str:
    """Return what stands for a study in an address; no name leads anywhere, since keys are only looked up."""
    return name if PLAIN.fullmatch(name) else mark_of(name)


def mark_of(*parts: object) -> str:
    """Return a hash of texts and numbers."""
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "surrogatepass")).hexdigest()[:KEY_CHARACTERS]
