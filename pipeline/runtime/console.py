"""Where commands print, times in words, and pictures that are redrawn until something ends."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live


def open_console(**options: Any) -> Console:
    """Return a console that breaks lines on a terminal only: in a file or a pipe they stay whole, paths too.

    Args:
        options: Of rich's console.
    """
    console = Console(highlight=False, **options)
    console.soft_wrap = not console.is_terminal
    return console


def replace_unshowable(*streams: Any) -> None:
    """Let streams write a question mark for a character that their encoding has not, where they would raise an error.

    Args:
        streams: Such as ``sys.stdout``; what is no text stream of a file is left alone.
    """
    for stream in streams:
        if not isinstance(stream, io.TextIOWrapper) or stream.errors not in ("strict", "surrogateescape"):
            continue
        stream.reconfigure(errors="replace")


def time_left(seconds: float | None) -> str:
    """Return a time in words, as exact as an estimate may sound; empty where it is unknown."""
    if seconds is None:
        return ""
    minutes = round(seconds / 60)
    if seconds < 45:
        return "less than a minute left"
    if minutes < 90:
        return f"about {max(minutes, 1)} min left"
    hours = round(minutes / 60)
    return f"about {hours} h left" if hours < 48 else f"about {round(hours / 24)} days left"


REDRAWN_SECONDS = 2.0
# Draws in so many lines, or ``None`` for as many as it takes; tells whether somebody still runs what it shows.
Look = Callable[[int | None], tuple[RenderableType, bool]]


def watch(look: Look, console: Console, sleep: Callable[[float], None] = time.sleep) -> None:
    """Draw what ``look`` returns, again and again, until nobody runs it; the last picture is whole and stays.

    Where the output is no terminal there is nothing to redraw: the picture is printed once, at the end.

    Args:
        look: Returns the picture, and whether there will be another.
        console: Where to draw.
        sleep: Waits so many seconds between two pictures.
    """
    with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
        while True:
            picture, running = look(console.height - 1)
            if not running:
                break
            if live is not None:
                live.update(picture, refresh=True)
            sleep(REDRAWN_SECONDS)
        whole, _ = look(None)
        if live is not None:
            live.update(whole, refresh=True)
    if live is None:
        console.print(whole)
