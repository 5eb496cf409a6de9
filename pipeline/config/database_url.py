"""Addresses of databases: which can be used, and how they are shown. A password never stands in one."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import TYPE_CHECKING

from shaping.errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy import URL

DRIVER = "postgresql+psycopg"
FORM = f"write {DRIVER}://USER@HOST:PORT/DATABASE"
PASSWORDS = "leave it out and set PGPASSWORD, or keep it in ~/.pgpass or the file that PGPASSFILE names"
# Query parameters whose values are secrets.
SECRET = re.compile(r"password|secret|token", re.IGNORECASE)
# The same in libpq's other form of address.
KEYWORD = re.compile(r"(\w*(?:password|secret|token)\w*\s*=\s*)('[^']*'|\S+)", re.IGNORECASE)


def check_url(text: str, field: str = "storage.url") -> URL:
    """Return the address of a PostgreSQL database.

    Args:
        text: As a user wrote it; parts that are missing are libpq's to find, in ``PGHOST`` and its like.
        field: What errors name.

    Raises:
        ConfigError: It is no address, of another database, holds a password, or its driver is not installed. What
            the error shows of it is never a password.
    """
    # Every worker reads a config, and few configs hold an address.
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    shown = masked(text)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # Not chained: the library's own error holds the whole text.
        url = None
    if url is None:
        raise ConfigError(f"{field} = {shown!r} is no address of a database", FORM)
    if url.password is not None or any(SECRET.search(key) for key in url.query):
        raise ConfigError(f"{field} = {shown!r} holds a password", PASSWORDS)
    if url.get_backend_name() == "sqlite":
        raise ConfigError(
            f"{field} = {shown!r}: SQLite is what a study uses without storage", f"leave it out, or {FORM}"
        )
    if url.drivername == "postgresql":
        url = url.set(drivername=DRIVER)
    if url.drivername != DRIVER:
        raise ConfigError(f"{field} = {shown!r}: {url.drivername} is not known", FORM)
    if find_spec("psycopg") is None:
        raise ConfigError(f"{field} = {shown!r} needs psycopg", "pip install 'shapetune[postgresql]'")
    return url


def masked(text: str) -> str:
    """Return the text of an address without what may be a password in it; made for text of any form."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "", text
    # The last @: an unquoted password may hold one itself, or a question mark.
    who, at, where = rest.rpartition("@")
    user, colon, _ = who.partition(":")
    where, question, _ = where.partition("?")
    shown = f"{scheme}{separator}{user}{':***' if colon else ''}{at}{where}{'?***' if question else ''}"
    return KEYWORD.sub(r"\1***", shown)
