"""Where commands print."""

from __future__ import annotations

from typing import Any

from rich.console import Console


def open_console(**options: Any) -> Console:
    """Return a console that breaks lines on a terminal only: in a file or a pipe they stay whole, paths too.

    Args:
        options: Of rich's console.
    """
    console = Console(highlight=False, **options)
    console.soft_wrap = not console.is_terminal
    return console
