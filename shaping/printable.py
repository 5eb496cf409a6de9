"""Texts that others wrote, made safe to print: a terminal obeys the control characters in what it is shown."""

from __future__ import annotations

import re

# C0 and C1 controls but for line feed and tab, and the marks that turn the direction of what follows them.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""Return the text with every control character as its escape, ``\x1b`` for the one that begins most sequences.

    Line feeds and tabs stay. Characters that cannot be encoded are escaped, too.
    """
    shown = _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return shown.encode("utf-8", "backslashreplace").decode()
