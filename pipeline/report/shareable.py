"""Texts for a page that travels: without the folders, addresses and home of the machine that wrote them."""

from __future__ import annotations

import re
from pathlib import Path

LEFT_OUT = "…"
_END = r"\s'\"<>:;,()\[\]{}|"
# At least two parts, so that "and/or" and a lone "/" stay; not inside a word, a tag or a relative path.
_PATH = re.compile(rf"(?<![\w.<:/])~?(?:/[^/{_END}]+)+/([^/{_END}]+)")
_URL = re.compile(r"\b([a-z][a-z0-9+.-]*)://[^\s'\"<>]+", re.IGNORECASE)
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?(?![\w.])")
# A value that is a path as a whole may hold blanks; an address may be a bare host name.
_YAML_PATH = re.compile(r"^(\s*(?:- )*(?:[\w.-]+: )?['\"]?)/(?:[^/\n]+/)+([^/\n]+)$", re.MULTILINE)
_YAML_ADDRESS = re.compile(r"^(\s*address: )(?!local$|auto$).+$", re.MULTILINE)


def shareable(text: str) -> str:
    """Return a text in which of absolute paths only the last part is left, and of addresses only the scheme."""
    home = str(Path.home())
    text = text if len(home) < 2 else text.replace(f"{home}/", "~/")
    text = _URL.sub(rf"\1://{LEFT_OUT}", text)
    return _PATH.sub(rf"{LEFT_OUT}/\1", _IPV4.sub(LEFT_OUT, text))


def shareable_yaml(text: str) -> str:
    """Return a config's text, line for line, in which no folder and no address is left."""
    text = _YAML_PATH.sub(rf"\1{LEFT_OUT}/\2", text)
    return shareable(_YAML_ADDRESS.sub(rf"\1{LEFT_OUT}", text))
